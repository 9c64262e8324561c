package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// sender publishes a stream of messages without waiting for each one's acknowledgement. It ends with the first that
// fails.
type sender struct {
	client   *client
	logger   *slog.Logger
	interval time.Duration

	pending []*mqtt.Delivery // in the order of their publishing
	taken   int
	unheard int // of those taken, how many nobody had subscribed to
}

// mostPending is how many messages may wait for their fate before no more are read.
const mostPending = 1000

type input struct {
	payload []byte
	err     error
}

// send takes messages, whose reading may wait for a person, and publishes them, until all are settled or ctx ends.
func (s *sender) send(ctx context.Context, messages iter.Seq2[[]byte, error], publish func([]byte) []*mqtt.Delivery) error {
	done := make(chan struct{})
	defer close(done)
	source := read(messages, s.interval, done)
	for source != nil || len(s.pending) > 0 {
		next, oldest := source, (<-chan struct{})(nil)
		if len(s.pending) >= mostPending {
			next = nil
		}
		if len(s.pending) > 0 {
			oldest = s.pending[0].Done()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.client.Done():
			return s.abandon()
		case <-oldest:
			if err := s.settle(); err != nil {
				return err
			}
		case m, more := <-next:
			switch {
			case !more:
				source = nil
				continue
			case m.err != nil:
				return m.err
			}
			s.pending = append(s.pending, publish(m.payload)...)
		}
	}
	return nil
}

// read takes messages in a goroutine of its own, because nothing ends a read of standard input. It ends at the first
// message after done is closed. Between two messages it waits for interval.
func read(messages iter.Seq2[[]byte, error], interval time.Duration, done <-chan struct{}) <-chan input {
	c := make(chan input)
	go func() {
		defer close(c)
		var wait time.Duration
		for payload, err := range messages {
			select {
			case <-time.After(wait):
			case <-done:
				return
			}
			select {
			case c <- input{payload, err}:
			case <-done:
				return
			}
			wait = interval
		}
	}()
	return c
}

// settle takes the oldest delivery, which is done, from the list.
func (s *sender) settle() error {
	d := s.pending[0]
	s.pending[0] = nil
	s.pending = s.pending[1:]
	switch err := d.Err(); {
	case err != nil && s.taken > 0:
		return fmt.Errorf("message %d: %w", s.taken+1, err)
	case err != nil:
		return err
	}
	s.taken++
	if d.Reason() == mqtt.NoMatchingSubscribers {
		s.unheard++
	}
	return nil
}

// abandon settles what was left when the client ended: what became of a message says more than why it ended.
func (s *sender) abandon() error {
	for len(s.pending) > 0 {
		<-s.pending[0].Done() // as of all messages of a client that has ended
		if err := s.settle(); err != nil {
			return err
		}
	}
	return s.client.Err()
}

// confirm makes sure, after send, that the server has got messages at QoS 0, which it does not acknowledge: it answers a
// ping that comes after them. losses is how many connections had been lost when they began.
func (s *sender) confirm(ctx context.Context, losses uint64) error {
	_, err := s.client.Ping(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil && s.client.Stats().Losses == losses:
		return nil
	case err == nil, errors.Is(err, mqtt.ErrNotConnected), errors.Is(err, mqtt.ErrConnectionLost):
		err = mqtt.ErrConnectionLost
	}
	return &exitError{exitUnknown, fmt.Errorf("nobody knows which messages at QoS 0 the server has got: %w", err)}
}

// report tells people what has happened.
func (s *sender) report() {
	switch {
	case s.unheard == s.taken && s.taken > 0:
		s.logger.Info("published, and nobody has subscribed to it", "messages", s.taken)
	case s.taken > 0:
		s.logger.Info("published", "messages", s.taken)
	}
}
