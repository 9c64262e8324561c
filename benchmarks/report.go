package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// table is a row as all libraries have played it.
type table struct {
	row     *row
	results map[string][]result // by library, one a round
}

// median returns the middle of what f says of the rounds.
func median[T cmp.Ordered](rounds []result, f func(*result) T) T {
	values := make([]T, len(rounds))
	for i := range rounds {
		values[i] = f(&rounds[i])
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// cpu is CPU microseconds a message.
func cpu(r *result) float64 { return (r.User + r.Sys) / float64(r.Messages) * 1e6 }

// offered returns the rounds of a library, nil if it has no such thing.
func (t *table) offered(library string) []result {
	rounds := t.results[library]
	for i := range rounds {
		if rounds[i].NotOffered || rounds[i].Error != "" {
			return nil
		}
	}
	return rounds
}

// print writes the row's table in Markdown.
func (t *table) print(w io.Writer) {
	fmt.Fprintf(w, "### %s\n\n", t.row.title)
	if t.row.idle > 0 {
		t.printIdle(w)
		return
	}
	latency := slices.ContainsFunc(libraries, func(l library) bool {
		rounds := t.offered(l.name)
		return len(rounds) > 0 && rounds[0].Latency != nil
	})
	fmt.Fprint(w, "| | CPU µs | × bare | messages/s | allocations | bytes allocated |")
	if latency {
		fmt.Fprint(w, " p50 | p99 | p99.9 |")
	}
	fmt.Fprint(w, "\n|---|---:|---:|---:|---:|---:|"+strings.Repeat("---:|", 3*btoi(latency))+"\n")
	var limit float64
	if bare := t.offered(libraries[0].name); bare != nil {
		limit = median(bare, cpu)
	}
	for _, l := range libraries {
		if rounds := t.offered(l.name); rounds != nil {
			t.printLibrary(w, l.name, rounds, limit, latency)
		}
	}
	fmt.Fprintln(w)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (t *table) printLibrary(w io.Writer, name string, rounds []result, limit float64, latency bool) {
	c := median(rounds, cpu)
	times := "–"
	if limit > 0 {
		times = fmt.Sprintf("%.1f", c/limit)
	}
	per := func(f func(*result) uint64) float64 {
		return median(rounds, func(r *result) float64 { return float64(f(r)) / float64(r.Messages) })
	}
	fmt.Fprintf(w, "| %s | %.3f | %s | %.0f | %.2f | %.0f |", name, c, times,
		median(rounds, func(r *result) float64 { return float64(r.Messages) / r.Seconds }),
		per(func(r *result) uint64 { return r.Mallocs }), per(func(r *result) uint64 { return r.Allocated }))
	if latency {
		for _, p := range []string{"p50", "p99", "p99.9"} {
			fmt.Fprintf(w, " %v |", median(rounds, func(r *result) time.Duration { return r.Latency[p] }).Round(100*time.Nanosecond))
		}
	}
	fmt.Fprintln(w)
}

func (t *table) printIdle(w io.Writer) {
	fmt.Fprint(w, "| | goroutines | heap and stack, KiB |\n|---|---:|---:|\n")
	for _, l := range libraries {
		if rounds := t.offered(l.name); rounds != nil && l.name != libraries[0].name {
			fmt.Fprintf(w, "| %s | %d | %.1f |\n", l.name, median(rounds, func(r *result) int { return r.Goroutines }),
				float64(median(rounds, func(r *result) uint64 { return r.Memory }))/1024)
		}
	}
	fmt.Fprintln(w)
}

// report writes the results and draws the figures.
func report(file string, tables []*table, o *options) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Results\n\nMedians of %d interleaved rounds, %s, %s/%s, %d cores, %s.\n\n", o.rounds,
		time.Now().Format("January 2006"), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
	b.WriteString("CPU is user and system time of the client's process for one message. \"× bare\" compares it with a program that moves the\n" +
		"same bytes and looks at none of them. How it is measured: [README.md](README.md).\n\n")
	b.WriteString("| module | version |\n|---|---|\n")
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if strings.Contains(m.Path, "paho") || strings.Contains(m.Path, "at-wat") {
				fmt.Fprintf(&b, "| %s | %s |\n", m.Path, m.Version)
			}
		}
	}
	b.WriteString("\n")
	for _, t := range tables {
		t.print(&b)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o666); err != nil {
		return err
	}
	return draw(filepath.Dir(file), tables)
}
