package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// pace says when the messages of a client are due.
type pace struct {
	start    time.Time
	interval time.Duration // 0: as fast as possible
	n        int
}

// newPace divides the rate among sources, whose messages are spread over the interval.
func (b *bench) newPace(source, sources int) *pace {
	p := &pace{start: b.meter.start}
	if b.rate > 0 {
		p.interval = time.Duration(float64(sources) / b.rate * float64(time.Second))
		p.start = p.start.Add(p.interval * time.Duration(source) / time.Duration(sources))
	}
	return p
}

// wait waits until the next message is due and returns when that was.
func (p *pace) wait(ctx context.Context) (time.Time, error) {
	if p.interval == 0 {
		return time.Now(), ctx.Err()
	}
	due := p.start.Add(time.Duration(p.n) * p.interval)
	p.n++
	if end, ok := ctx.Deadline(); ok && !due.Before(end) {
		<-ctx.Done()
		return due, ctx.Err()
	}
	if d := time.Until(due); d > 0 {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	return due, ctx.Err()
}

// grace is how long acknowledgements may take once no more is sent.
const grace = 5 * time.Second

// publishAll publishes as a client until its time is up or its count is reached, and waits for acknowledgements then.
// Latency, if wanted, is how long they took. ctx ends all at once.
func (b *bench) publishAll(ctx, limited context.Context, c *client, i int, latency bool) error {
	patient, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(limited, func() { time.AfterFunc(grace, cancel) })
	waiting := make(chan published, b.inFlight)
	var reaper sync.WaitGroup
	reaper.Go(func() {
		for p := range waiting {
			switch err := p.delivery.Wait(patient); {
			case err != nil && ctx.Err() != nil: // it has not failed, but was given up
			case err != nil:
				b.meter.failure(err)
			case latency:
				b.meter.latency(time.Since(p.due))
			}
		}
	})
	defer reaper.Wait()
	defer close(waiting)
	p, topic := b.newPace(i, b.clients), b.topicOf(i, c.ClientID())
	filler := make([]byte, b.size)
	rand.Read(filler)
	for n := 0; b.count == 0 || n < b.count; n++ {
		due, err := p.wait(limited)
		if err != nil {
			return nil // the time is up
		}
		payload := bytes.Clone(filler) // the client's until the delivery is done
		stamp{b.run, uint32(i), uint64(n), due.Sub(b.meter.start)}.put(payload)
		d := c.publish(patient, topic, payload, nil, mqtt.QoS(b.qos))
		b.meter.sent.Add(1)
		b.meter.bytes.Add(int64(len(payload)))
		waiting <- published{d, due}
		if c.Err() != nil {
			return c.Err()
		}
	}
	return nil
}

// published is a message that waits for its acknowledgement.
type published struct {
	delivery *mqtt.Delivery
	due      time.Time
}

// receiveAll counts what a subscription gets, until it ends.
func (b *bench) receiveAll(s *mqtt.Subscription, l *ledger) error {
	for m := range s.Messages() {
		stamp, ok := readStamp(m.Payload, b.run)
		if !ok {
			continue
		}
		now := time.Since(b.meter.start)
		b.meter.received.Add(1)
		b.meter.latestAt.Store(int64(now)) // other subscribers are as late as this one, more or less
		b.meter.latency(now - stamp.sent)
		l.note(stamp)
	}
	if err := s.Err(); !errors.Is(err, mqtt.ErrClosed) {
		return err
	}
	return nil
}
