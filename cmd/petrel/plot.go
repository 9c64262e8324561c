package main

import (
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"math"
	"os"
	"strings"
)

//go:embed plot.html
var plotPage string

var plotTemplate = template.Must(template.New("plot").Parse(plotPage))

// chart is a drawing of lines over time.
type chart struct {
	Title string
	Lines []line
	Ticks []tick // of the vertical axis
	Times []tick // of the horizontal axis
}

type line struct {
	Name, Class string
	Points      string // of an SVG polyline
	Dots        []dot
	values      []float64
}

type dot struct {
	X, Y float64
	Text string
}

type tick struct {
	At   float64 // a coordinate
	Text string
}

// The area of a chart, in the units of its SVG.
const (
	plotLeft, plotRight = 70.0, 790.0
	plotTop, plotBottom = 10.0, 210.0
)

// mayWrite finds out whether a file can be written before a benchmark has run for it.
func mayWrite(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	return f.Close()
}

// writePlot draws throughput and latency over time into an HTML file that needs nothing else.
func writePlot(path string, r *results) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	page := struct {
		Title, Summary string
		Charts         []chart
	}{"petrel bench " + r.Benchmark, r.String(), r.charts()}
	return errors.Join(plotTemplate.Execute(file, page), file.Close())
}

func (r *results) charts() []chart {
	column := func(name, class string, value func(sample) float64) line {
		l := line{Name: name, Class: class}
		for _, s := range r.Samples {
			l.values = append(l.values, value(s))
		}
		return l
	}
	var rates []line
	if r.Benchmark != "sub" {
		rates = append(rates, column("sent", "a", func(s sample) float64 { return s.Sent }))
	}
	if r.Benchmark != "pub" {
		rates = append(rates, column("received", "b", func(s sample) float64 { return s.Received }))
	}
	charts := []chart{r.chart("Per second", thousands, linear, rates)}
	if r.Latency != nil {
		charts = append(charts, r.chart("Latency", short, logarithmic, []line{
			column("p50", "a", func(s sample) float64 { return s.P50 }),
			column("p99", "b", func(s sample) float64 { return s.P99 }),
			column("max", "c", func(s sample) float64 { return s.Max }),
		}))
	}
	return charts
}

// axis returns the ticks of a vertical axis for values between least, of those above 0, and most, and where between 0 and
// 1 a value stands on it.
type axis func(least, most float64) (ticks []float64, at func(float64) float64)

// linear begins at 0.
func linear(_, most float64) (ticks []float64, at func(float64) float64) {
	step := niceStep(most / 4)
	top := step * max(1, math.Ceil(most/step))
	for v := 0.0; v <= top*1.001; v += step {
		ticks = append(ticks, v)
	}
	return ticks, func(v float64) float64 { return v / top }
}

// logarithmic has a tick for each power of ten.
func logarithmic(least, most float64) (ticks []float64, at func(float64) float64) {
	if most <= 0 {
		return linear(least, most)
	}
	low := math.Floor(math.Log10(least))
	high := max(low+1, math.Ceil(math.Log10(most)))
	for p := low; p <= high; p++ {
		ticks = append(ticks, math.Pow(10, p))
	}
	return ticks, func(v float64) float64 { return max(0, (math.Log10(max(v, least))-low)/(high-low)) }
}

// chart lays out lines over time.
func (r *results) chart(title string, text func(float64) string, vertical axis, lines []line) chart {
	end, least, most := 1.0, math.Inf(1), 0.0
	for i, s := range r.Samples {
		end = max(end, s.At)
		for _, l := range lines {
			most = max(most, l.values[i])
			if l.values[i] > 0 {
				least = min(least, l.values[i])
			}
		}
	}
	ticks, at := vertical(least, most)
	x := func(at float64) float64 { return plotLeft + at/end*(plotRight-plotLeft) }
	y := func(v float64) float64 { return plotBottom - at(v)*(plotBottom-plotTop) }
	c := chart{Title: title}
	for _, l := range lines {
		var points strings.Builder
		for i, s := range r.Samples {
			fmt.Fprintf(&points, "%.1f,%.1f ", x(s.At), y(l.values[i]))
			l.Dots = append(l.Dots, dot{x(s.At), y(l.values[i]), fmt.Sprintf("%s at %.0f s: %s", l.Name, s.At, text(l.values[i]))})
		}
		l.Points = points.String()
		c.Lines = append(c.Lines, l)
	}
	for _, v := range ticks {
		c.Ticks = append(c.Ticks, tick{y(v), text(v)})
	}
	for at, step := 0.0, niceStep(end/8); at <= end; at += step {
		c.Times = append(c.Times, tick{x(at), fmt.Sprintf("%g s", math.Round(at*10)/10)})
	}
	return c
}

// niceStep returns 1, 2 or 5 times a power of ten, not less than v.
func niceStep(v float64) float64 {
	if v <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, n := range []float64{1, 2, 5} {
		if n*power >= v {
			return n * power
		}
	}
	return 10 * power
}
