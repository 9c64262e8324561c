package main

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// longestLatency is the longest that is told apart from a longer one.
const longestLatency = time.Minute

// meter counts what happens in a benchmark. Its methods may be called concurrently.
type meter struct {
	start time.Time // set before the load begins

	sent, received, bytes, failed atomic.Int64
	latestAt                      atomic.Int64 // when the latest message came, of those with a time in them; nanoseconds from the start

	mu                sync.Mutex              // guards what follows
	total, since      *hdrhistogram.Histogram // of latencies in nanoseconds: all, and those since the latest sample
	samples           []sample
	lastSent, lastGot int64 // at the latest sample
	firstFailure      error
}

// sample is what happened in an interval that ends At, counted from the start.
type sample struct {
	At       float64 `json:"at"` // seconds
	Sent     float64 `json:"sent_per_second"`
	Received float64 `json:"received_per_second"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	Max      float64 `json:"max_ms"`
}

func newMeter() *meter {
	return &meter{total: newHistogram(), since: newHistogram(), start: time.Now()}
}

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, int64(longestLatency), 3) }

// latency records how long something took.
func (m *meter) latency(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.since.RecordValue(int64(min(max(d, 1), longestLatency))) // in range, so there is no error
}

// failure counts something that failed.
func (m *meter) failure(err error) {
	m.failed.Add(1)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.firstFailure == nil {
		m.firstFailure = err
	}
}

// sample ends an interval, if anything of a length has gone by.
func (m *meter) sample() {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, before := time.Since(m.start).Seconds(), 0.0
	if n := len(m.samples); n > 0 {
		before = m.samples[n-1].At
	}
	if at-before < 0.1 {
		return
	}
	sent, got := m.sent.Load(), m.received.Load()
	m.samples = append(m.samples, sample{
		At:       at,
		Sent:     float64(sent-m.lastSent) / (at - before),
		Received: float64(got-m.lastGot) / (at - before),
		P50:      milliseconds(m.since.ValueAtQuantile(50)),
		P99:      milliseconds(m.since.ValueAtQuantile(99)),
		Max:      milliseconds(m.since.Max()),
	})
	m.lastSent, m.lastGot = sent, got
	m.total.Merge(m.since)
	m.since.Reset()
}

func milliseconds(ns int64) float64 { return float64(ns) / 1e6 }

// latest returns the latest sample.
func (m *meter) latest() sample {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.samples) == 0 {
		return sample{}
	}
	return m.samples[len(m.samples)-1]
}

// sampleUntil takes a sample every second until done is closed.
func (m *meter) sampleUntil(done <-chan struct{}) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			m.sample()
		case <-done:
			return
		}
	}
}
