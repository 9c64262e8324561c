package mqtt

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// HandleOption is an option of Handle and of Respond: Workers, RetryPolicy, DeadLetter, Key.
type HandleOption interface {
	RespondOption
	handle(*handleOptions)
}

// Workers is an option of Handle and Respond: how many messages may be handled at a time, 1 or more; the default is 1.
// Handle handles messages of one topic, or of one Key, one after another in the order in which they came, whatever the
// number. Respond does so only where there is a Key.
type Workers int

// RetryPolicy is an option of Handle and Respond: when a message whose handling failed is handled again, in this process.
// Zero fields mean the defaults, with which the last retry begins within 30 s of the first failure.
//
// A message that is being retried is not acknowledged, and acknowledgements leave in the order in which the messages
// came: it holds back those of all later messages of the client. Once as many messages as the Receive Maximum are held
// back, the server sends no more at QoS 1 and 2. So a policy should be over soon. To try again after minutes or hours,
// acknowledge the message and publish it to a topic of your own.
type RetryPolicy struct {
	// Attempts is how often a message is handled at most, the first time included; 1 means no retry. The default is 8.
	Attempts int
	// InitialDelay bounds the wait before the first retry, MaxDelay all of them; in between the bound grows by Factor
	// with each failure. The wait is random, between half of the bound and all of it.
	InitialDelay time.Duration // 100 ms
	MaxDelay     time.Duration // 5 s
	Factor       float64       // 2
	// Within is how long after the first failure a retry may still begin. The default is 30 s.
	Within time.Duration
}

// DeadLetter is an option of Handle and Respond: f takes over a message that cannot be handled. It gets the message and the last
// error when the RetryPolicy is over, and at once when that error is Permanent. It can publish the message elsewhere, or
// write it down.
//
// nil means that the message is dealt with, and it is acknowledged. To tell the server that it was refused (MQTT 5),
// f calls Reject on the message before it returns nil. If f fails, the message stays unacknowledged, and f is called
// again after the policy's MaxDelay, until it returns nil. ctx is the one of the handler.
//
// Without this option Handle ends with a *HandleError, and the message stays unacknowledged.
func DeadLetter(f func(ctx context.Context, m Message, err error) error) HandleOption {
	return deadLetter(f)
}

// Key is an option of Handle and Respond: messages for which f returns the same text are handled one after another, in
// the order in which they came. Without it that holds for messages of one topic in Handle, and for no messages in Respond. With
// Key(nil) it holds for no messages. f must be quick.
func Key(f func(m Message) string) HandleOption { return key(f) }

type (
	deadLetter func(context.Context, Message, error) error
	key        func(Message) string
)

// handleOptions is what the options of one Handle say.
type handleOptions struct {
	workers    int
	retry      RetryPolicy
	deadLetter func(context.Context, Message, error) error // nil: none
	key        func(Message) string                        // nil: messages need not stay in order
}

func (n Workers) handle(o *handleOptions)     { o.workers = int(n) }
func (p RetryPolicy) handle(o *handleOptions) { o.retry = p }
func (f deadLetter) handle(o *handleOptions)  { o.deadLetter = f }
func (f key) handle(o *handleOptions)         { o.key = f }

func parseHandle(opts []HandleOption) (handleOptions, error) {
	o := handleOptions{workers: 1, key: func(m Message) string { return m.Topic }}
	for _, opt := range opts {
		if opt != nil {
			opt.handle(&o)
		}
	}
	return o, o.complete()
}

// complete fills in the defaults and checks the options.
func (o *handleOptions) complete() error {
	o.retry.fill()
	if o.workers < 1 {
		return fmt.Errorf("mqtt: Workers: %d is less than 1", o.workers)
	}
	return o.retry.check()
}

// fill replaces zero fields by the defaults.
func (p *RetryPolicy) fill() {
	if p.Attempts == 0 {
		p.Attempts = 8
	}
	if p.InitialDelay == 0 {
		p.InitialDelay = 100 * time.Millisecond
	}
	if p.MaxDelay == 0 {
		p.MaxDelay = max(5*time.Second, p.InitialDelay)
	}
	if p.Factor == 0 {
		p.Factor = 2
	}
	if p.Within == 0 {
		p.Within = 30 * time.Second
	}
}

func (p *RetryPolicy) check() error {
	if p.Attempts < 1 || p.InitialDelay < 0 || p.MaxDelay < p.InitialDelay || !(p.Factor >= 1) || p.Within < 0 {
		return errors.New("mqtt: RetryPolicy: negative or contradictory values")
	}
	return nil
}

// delay is how long to wait after n failures of a message.
func (p *RetryPolicy) delay(n int) time.Duration {
	bound := min(float64(p.InitialDelay)*math.Pow(p.Factor, float64(n-1)), float64(p.MaxDelay))
	return time.Duration(bound * (1 + rand.Float64()) / 2)
}

// HandleError is why Handle gave up: a message could not be handled, and there was no DeadLetter. The message is
// unacknowledged, and the first of the next All, Batches, Next or Handle of the subscription.
type HandleError struct {
	Topic    string
	Attempts int
	Err      error // of the last attempt
}

func (e *HandleError) Error() string {
	return fmt.Sprintf("mqtt: handling a message on %q failed after %d attempts: %v", e.Topic, e.Attempts, e.Err)
}

func (e *HandleError) Unwrap() error { return e.Err }
