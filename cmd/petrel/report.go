package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// results are those of a benchmark, as JSON has them.
type results struct {
	Benchmark string  `json:"benchmark"`
	Server    string  `json:"server"`
	Protocol  string  `json:"protocol"`
	QoS       int     `json:"qos"`
	Payload   int     `json:"payload_bytes,omitempty"`
	Clients   int     `json:"clients"`
	Peers     int     `json:"peers,omitempty"` // subscribers or responders
	Seconds   float64 `json:"seconds"`
	Receiving float64 `json:"receiving_seconds,omitempty"` // where messages came for longer than they were sent

	Sent         int64    `json:"sent"`
	Received     int64    `json:"received"`
	SentRate     float64  `json:"sent_per_second"`
	ReceivedRate float64  `json:"received_per_second"`
	BytesRate    float64  `json:"bytes_per_second"`
	Failed       int64    `json:"failed"`
	FirstFailure string   `json:"first_failure,omitempty"`
	Lost         *int     `json:"lost,omitempty"`              // these three where they are known
	Dropped      uint64   `json:"dropped_by_client,omitempty"` // of those lost
	Duplicates   *int     `json:"duplicates,omitempty"`
	OutOfOrder   *int     `json:"out_of_order,omitempty"`
	Latency      *spread  `json:"latency_ms,omitempty"`
	Samples      []sample `json:"samples"`
}

// spread is how latencies are distributed, in milliseconds.
type spread struct {
	Min  float64 `json:"min"`
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

func newSpread(h *hdrhistogram.Histogram) *spread {
	if h.TotalCount() == 0 {
		return nil
	}
	at := func(q float64) float64 { return milliseconds(h.ValueAtQuantile(q)) }
	return &spread{milliseconds(h.Min()), h.Mean() / 1e6, at(50), at(90), at(99), at(99.9), milliseconds(h.Max())}
}

func (b *bench) results() *results {
	m := b.meter
	m.mu.Lock()
	defer m.mu.Unlock()
	m.total.Merge(m.since)
	m.since.Reset()
	seconds := max(b.elapsed.Seconds(), 1e-9)
	r := &results{
		Benchmark: b.kind, Server: b.target, Protocol: b.server.version.String(), QoS: int(b.qos), Payload: int(b.size),
		Clients: b.clients, Peers: b.peers, Seconds: seconds, Failed: m.failed.Load(),
		Sent: m.sent.Load(), Received: m.received.Load(), Latency: newSpread(m.total), Samples: m.samples,
		SentRate: float64(m.sent.Load()) / seconds, ReceivedRate: float64(m.received.Load()) / seconds,
		BytesRate: float64(m.bytes.Load()) / seconds,
	}
	if latest := time.Duration(m.latestAt.Load()); latest > b.elapsed {
		r.Receiving = latest.Seconds()
		r.ReceivedRate = float64(r.Received) / r.Receiving
	}
	if m.firstFailure != nil {
		r.FirstFailure = plain(m.firstFailure)
	}
	if b.kind == "pubsub" {
		var distinct, duplicates, disorder int
		for i := range b.ledgers {
			n, d, o := b.ledgers[i].sum()
			distinct, duplicates, disorder = distinct+n, duplicates+d, disorder+o
		}
		lost := int(r.Sent)*b.peers - distinct
		r.Dropped = b.dropped
		r.Lost, r.Duplicates, r.OutOfOrder = &lost, &duplicates, &disorder
	}
	return r
}

// report writes the results, and the plot if wanted. What has failed is its error.
func (b *bench) report(w io.Writer) error {
	r := b.results()
	var err error
	if b.json {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		_, err = io.WriteString(w, r.String())
	}
	if b.plot != "" {
		err = errors.Join(err, writePlot(b.plot, r))
	}
	switch {
	case err != nil:
		return err
	case r.Failed > 0:
		return fmt.Errorf("%d of %d failed, the first: %s", r.Failed, r.Sent, r.FirstFailure)
	case b.kind == "conn" && r.Received < int64(b.clients):
		return &exitError{exitTimeout, fmt.Errorf("time was up after %d of %s", r.Received, many(b.clients, "connection"))}
	}
	return nil
}

// String is the results for people.
func (r *results) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s against %s, MQTT %s, %s\n\n", r.Benchmark, r.Server, r.Protocol, r.load())
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	sent, received := "sent", "received"
	switch r.Benchmark {
	case "conn":
		sent, received = "tried", "connected"
	case "rpc":
		sent, received = "asked", "answered"
	}
	if r.Benchmark != "sub" {
		fmt.Fprintf(t, "%s\t%s\t%s/s\t\n", sent, thousands(float64(r.Sent)), thousands(r.SentRate))
	}
	if r.Benchmark != "pub" {
		fmt.Fprintf(t, "%s\t%s\t%s/s\t\n", received, thousands(float64(r.Received)), thousands(r.ReceivedRate))
	}
	if r.BytesRate > 0 {
		fmt.Fprintf(t, "payload\t\t%s/s\t\n", bytesText(r.BytesRate))
	}
	if r.Failed > 0 {
		fmt.Fprintf(t, "failed\t%s\t\t\n", thousands(float64(r.Failed)))
	}
	if r.Lost != nil {
		fmt.Fprintf(t, "lost\t%s\t\t\n", thousands(float64(*r.Lost)))
		if r.Dropped > 0 {
			fmt.Fprintf(t, "by this client\t%s\t\t\n", thousands(float64(r.Dropped)))
		}
		fmt.Fprintf(t, "duplicates\t%d\t\t\nout of order\t%d\t\t\n", *r.Duplicates, *r.OutOfOrder)
	}
	t.Flush()
	if l := r.Latency; l != nil {
		fmt.Fprintf(&b, "\nlatency  ")
		for _, q := range []struct {
			name string
			ms   float64
		}{{"min", l.Min}, {"mean", l.Mean}, {"p50", l.P50}, {"p90", l.P90}, {"p99", l.P99}, {"p99.9", l.P999}, {"max", l.Max}} {
			fmt.Fprintf(&b, "%s %s  ", q.name, short(q.ms))
		}
	}
	if hint := r.loss(); hint != "" {
		fmt.Fprintf(&b, "\n\n%s", hint)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n") + "\n"
}

// loss says where messages were lost, and how not to lose them.
func (r *results) loss() string {
	if r.Lost == nil || *r.Lost <= 0 {
		return ""
	}
	share := 100 * float64(*r.Lost) / float64(int(r.Sent)*r.Peers)
	text := fmt.Sprintf("%s %% of what subscribers should have got was lost", strconv.FormatFloat(share, 'g', 2, 64))
	switch {
	case *r.Lost <= int(r.Dropped):
		return text + " by this client,\nwhose subscribers did not keep up: a --rate that they keep up with avoids that."
	case r.QoS == 0:
		return text + ". At QoS 0 a server may drop\nwhat a subscriber is too slow for: a --rate that all keep up with, or -q 1, avoids that."
	}
	return text + " by the server,\nwhich had taken it. Its queue for a slow subscriber may have been full: a --rate avoids that."
}

// load says what was asked of the server.
func (r *results) load() string {
	text := many(r.Clients, "client")
	switch r.Benchmark {
	case "pubsub":
		text = many(r.Clients, "publisher") + ", " + many(r.Peers, "subscriber")
	case "rpc":
		text += ", " + many(r.Peers, "responder")
	}
	if r.Benchmark != "conn" {
		text += fmt.Sprintf(", QoS %d", r.QoS)
	}
	if r.Payload > 0 {
		text += ", " + strconv.Itoa(r.Payload) + " bytes"
	}
	return text + fmt.Sprintf(", %.1f s", r.Seconds)
}

// thousands writes a number with separators: 1,234,567. Small ones have a decimal.
func thousands(n float64) string {
	if n < 100 && n != math.Trunc(n) {
		return strconv.FormatFloat(n, 'f', 1, 64)
	}
	text := strconv.FormatFloat(n, 'f', 0, 64)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// short writes milliseconds with three digits that count and a fitting unit.
func short(ms float64) string {
	unit := "ms"
	switch {
	case ms >= 1000:
		ms, unit = ms/1000, "s"
	case ms < 1 && ms > 0:
		ms, unit = ms*1000, "µs"
	}
	digits := 2
	if ms >= 10 {
		digits = 1
	}
	if ms >= 100 {
		digits = 0
	}
	return strconv.FormatFloat(ms, 'f', digits, 64) + " " + unit
}

// bytesText writes a number of bytes with a fitting unit.
func bytesText(n float64) string {
	for _, unit := range []string{"B", "kB", "MB"} {
		if n < 1000 {
			return strconv.FormatFloat(n, 'f', 1, 64) + " " + unit
		}
		n /= 1000
	}
	return strconv.FormatFloat(n, 'f', 1, 64) + " GB"
}
