package main

import (
	"fmt"
	"image/color"
	"math"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// figures are the rows that are drawn together.
var figures = []struct {
	file, title string
	rows        []string
}{
	{"publish.svg", "CPU per published message of 64 bytes", []string{"pub0-64B", "pub1-64B", "pub2-64B"}},
	{"receive.svg", "CPU per received message of 64 bytes", []string{"recv0-64B", "recv1-64B", "recv2-64B"}},
}

// draw makes the figures whose rows were played.
func draw(folder string, tables []*table) error {
	byName := make(map[string]*table)
	for _, t := range tables {
		byName[t.row.name] = t
	}
	for _, f := range figures {
		var chosen []*table
		for _, name := range f.rows {
			if t := byName[name]; t != nil {
				chosen = append(chosen, t)
			}
		}
		if len(chosen) == len(f.rows) {
			if err := bars(filepath.Join(folder, f.file), f.title, chosen); err != nil {
				return err
			}
		}
	}
	return nil
}

// The axis of the figures, in µs; it is logarithmic. Gonum draws a bar from 0, which such an axis does not have, so the bars
// are logarithms of what they stand for, and begin at the axis' least value.
const least, most = 0.01, 100

func height(microseconds float64) float64 { return math.Log10(max(least, microseconds) / least) }

// bars draws a group of bars for each table, one bar for each library.
func bars(file, title string, tables []*table) error {
	p := plot.New()
	p.Title.Text = title
	p.Title.Padding = vg.Points(8)
	p.Y.Label.Text = "µs, logarithmic"
	p.Y.Min, p.Y.Max = 0, height(most)
	var ticks plot.ConstantTicks
	for v := least; v <= most*1.01; v *= 10 {
		ticks = append(ticks, plot.Tick{Value: height(v), Label: fmt.Sprint(math.Round(v*100) / 100)})
	}
	p.Y.Tick.Marker = ticks
	lines := plotter.NewGrid()
	lines.Vertical.Width = 0
	p.Add(lines)
	p.Legend.Padding = vg.Points(3)
	width := vg.Points(18)
	for i, l := range libraries {
		values := make(plotter.Values, len(tables))
		for n, t := range tables {
			if rounds := t.offered(l.name); rounds != nil {
				values[n] = height(median(rounds, cpu))
			}
		}
		b, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		b.Color, b.LineStyle.Width = plotutil.Color(i), 0
		if i == 0 {
			b.Color = color.Gray{170} // the limit
		}
		b.Offset = width * vg.Length(float64(i)-float64(len(libraries)-1)/2)
		p.Add(b)
		p.Legend.Add(l.name, b)
	}
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = fmt.Sprintf("QoS %d", t.row.qos)
	}
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.5, float64(len(tables))+0.3 // room for the legend
	p.Legend.Top, p.Legend.Left, p.Legend.XOffs = true, true, vg.Points(570)
	return p.Save(vg.Points(800), vg.Points(330), file)
}
