package mqtt

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

func (c *client) Flush(ctx context.Context) error {
	c.mu.Lock()
	waves := c.outbox.waves.end()
	c.mu.Unlock()
	for _, w := range waves {
		select {
		case <-w.over:
		case <-ctx.Done():
			return fmt.Errorf("mqtt: waiting for acknowledgements: %w", ctx.Err())
		}
	}
	if err := c.Err(); err != nil {
		return err
	}
	return c.flush(ctx)
}

func (c *client) Drain(ctx context.Context) error {
	subs := c.inbox.stop()
	errs := make([]error, len(subs))
	var leaving sync.WaitGroup
	for i, s := range subs {
		leaving.Go(func() {
			if errs[i] = s.Unsubscribe(ctx); errs[i] == nil {
				errs[i] = s.awaitLoops(ctx)
			}
		})
	}
	leaving.Wait()
	return errors.Join(append(errs, c.disconnect(ctx, nil))...)
}

// stop notes that nothing more is acknowledged that was not processed. It returns the subscriptions, except those for replies:
// requests may still wait for them.
func (in *inbox) stop() []*Subscription {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.stopping = true
	var subs []*Subscription
	for s := range in.subs {
		if s.sink == nil {
			subs = append(subs, s)
		}
	}
	return subs
}

// awaitLoops waits until the loops over a subscription that has ended are over.
func (s *Subscription) awaitLoops(ctx context.Context) error {
	s.lock()
	defer s.unlock()
	for s.line.loops > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("mqtt: waiting for a consumer: %w", ctx.Err())
		}
		s.awaitMove(ctx.Done())
	}
	return nil
}
