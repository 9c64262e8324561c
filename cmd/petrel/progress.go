package main

import (
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// watch takes samples, and shows people at a terminal how the benchmark goes, until stop.
func (b *bench) watch(cmd *cobra.Command) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() { b.meter.sampleUntil(done) })
	if w := cmd.ErrOrStderr(); isTerminal(w) && !b.log.quiet {
		p := mpb.New(mpb.WithOutput(w), mpb.WithWidth(24))
		bar := p.AddBar(int64(b.duration),
			mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string {
				return fmt.Sprintf("%s %3.0f s", b.kind, time.Since(b.meter.start).Seconds())
			})),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return b.live() })),
		)
		running.Go(func() { advance(bar, b.meter.start, done) })
		running.Go(p.Wait)
	}
	return func() {
		close(done)
		running.Wait()
	}
}

// advance moves a bar with the time, and removes it at the end.
func advance(bar *mpb.Bar, start time.Time, done <-chan struct{}) {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			bar.SetCurrent(int64(time.Since(start)))
		case <-done:
			bar.Abort(true)
			return
		}
	}
}

// live is the latest second in a few words.
func (b *bench) live() string {
	s := b.meter.latest()
	switch {
	case s.At == 0:
		return "…"
	case b.kind == "conn":
		return fmt.Sprintf("%d connected, %s/s", b.meter.received.Load(), thousands(s.Received))
	case b.kind == "pub":
		return fmt.Sprintf("%s/s sent%s", thousands(s.Sent), s.latency())
	case b.kind == "sub":
		return thousands(s.Received) + "/s received"
	}
	return fmt.Sprintf("%s/s sent, %s/s received%s", thousands(s.Sent), thousands(s.Received), s.latency())
}

func (s *sample) latency() string {
	if s.Max == 0 {
		return ""
	}
	return fmt.Sprintf(", p50 %s, p99 %s", short(s.P50), short(s.P99))
}
