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
	charts := []chart{r.chart("Per second", func(v float64) string { return thousands(v) }, rates)}
	if r.Latency != nil {
		charts = append(charts, r.chart("Latency", short, []line{
			column("p50", "a", func(s sample) float64 { return s.P50 }),
			column("p99", "b", func(s sample) float64 { return s.P99 }),
			column("max", "c", func(s sample) float64 { return s.Max }),
		}))
	}
	return charts
}

// chart lays out lines on linear axes that begin at 0.
func (r *results) chart(title string, text func(float64) string, lines []line) chart {
	end, highest := 1.0, 0.0
	for i, s := range r.Samples {
		end = max(end, s.At)
		for _, l := range lines {
			highest = max(highest, l.values[i])
		}
	}
	step := niceStep(highest / 4)
	top := step * math.Max(1, math.Ceil(highest/step))
	x := func(at float64) float64 { return plotLeft + at/end*(plotRight-plotLeft) }
	y := func(v float64) float64 { return plotBottom - v/top*(plotBottom-plotTop) }
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
	for v := 0.0; v <= top*1.001; v += step {
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
