package main

import (
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
	{"publish.svg", "CPU per published message, 64 bytes, as multiples of a bare TCP program (log scale)", []string{"pub0-64B", "pub1-64B", "pub2-64B"}},
	{"receive.svg", "CPU per received message, 64 bytes, as multiples of a bare TCP program (log scale)", []string{"recv0-64B", "recv1-64B", "recv2-64B"}},
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
			if t := byName[name]; t != nil && t.offered(libraries[0].name) != nil {
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

// bars draws a group of bars for each table, one bar for each library.
func bars(file, title string, tables []*table) error {
	p := plot.New()
	p.Title.Text = title
	// The bars are logarithms: gonum draws a bar from 0, which a logarithmic axis does not have.
	p.Y.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "1"}, {Value: 1, Label: "10"}, {Value: 2, Label: "100"}, {Value: 3, Label: "1000"}}
	p.Y.Min, p.Y.Max = 0, 3
	p.Legend.Top, p.Legend.Left = true, true
	width := vg.Points(14)
	for i, l := range libraries[1:] {
		values := make(plotter.Values, len(tables))
		for n, t := range tables {
			if rounds := t.offered(l.name); rounds != nil {
				values[n] = math.Log10(max(1, median(rounds, cpu)/median(t.offered(libraries[0].name), cpu)))
			}
		}
		b, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		b.Color, b.LineStyle.Width = plotutil.Color(i), 0
		b.Offset = width * vg.Length(float64(i)-float64(len(libraries)-2)/2)
		p.Add(b)
		p.Legend.Add(l.name, b)
	}
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.row.title
	}
	p.NominalX(names...)
	return p.Save(vg.Points(720), vg.Points(360), file)
}
