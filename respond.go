package mqtt

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"
)

// replyGrace bounds the publishing of a reply after Respond was told to end.
const replyGrace = 10 * time.Second

// errorText is the largest size of an error's text that is sent, in bytes.
const errorText = 1024

var (
	errRequestExpired = errors.New("mqtt: the request has expired")
	errGivenUp        = errors.New("mqtt: Respond or its client has ended") // before the reply was acknowledged
)

// RespondOption is an option of Respond: every HandleOption, and ReplyOptions.
type RespondOption interface {
	respond(*respondOptions)
}

// ReplyOptions is an option of Respond: these publish options are for the replies. Their QoS is 1 unless given.
func ReplyOptions(opts ...PublishOptionV5) RespondOption { return replyOptions(opts) }

type replyOptions []PublishOptionV5

// respondOptions is what the options of one Respond say.
type respondOptions struct {
	handle handleOptions
	reply  publishOptions
}

func (r replyOptions) respond(o *respondOptions) { addOptions(&o.reply, r) }
func (n Workers) respond(o *respondOptions)      { n.handle(&o.handle) }
func (p RetryPolicy) respond(o *respondOptions)  { p.handle(&o.handle) }
func (f deadLetter) respond(o *respondOptions)   { f.handle(&o.handle) }
func (f key) respond(o *respondOptions)          { f.handle(&o.handle) }

// parseRespond reads the options of one Respond. Without a RetryPolicy an error is sent to the requester at once.
func parseRespond(opts []RespondOption) (respondOptions, error) {
	o := respondOptions{
		handle: handleOptions{workers: 1, retry: RetryPolicy{Attempts: 1}},
		reply:  publishOptions{qos: AtLeastOnce},
	}
	for _, opt := range opts {
		if opt != nil {
			opt.respond(&o)
		}
	}
	return o, o.handle.complete()
}

// responder is one call of Respond.
type responder struct {
	client  *client
	sub     *Subscription
	handler func(context.Context, Message) ([]byte, error)
	failed  func(context.Context, Message, error) error // the application's DeadLetter; nil: none
	options publishOptions                              // of replies
	intake  context.Context                             // ends when no more requests should be taken
	sending context.Context                             // ends replyGrace after intake
}

func (c clientV5) Respond(ctx context.Context, sub *Subscription, handler func(context.Context, Message) ([]byte, error), opts ...RespondOption) error {
	o, err := parseRespond(opts)
	if err != nil {
		return err
	}
	r := &responder{client: c.client, sub: sub, handler: handler, failed: o.handle.deadLetter, options: o.reply}
	o.handle.deadLetter = r.refuse
	return r.run(ctx, o.handle)
}

func (r *responder) run(ctx context.Context, o handleOptions) error {
	c := r.client
	intake, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(c.ctx, stop)()
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	defer context.AfterFunc(c.ctx, stopSending)()
	defer context.AfterFunc(intake, func() { time.AfterFunc(replyGrace, stopSending) })()
	r.intake, r.sending = intake, sending

	err := r.sub.handle(intake, r.serve, o)
	if ctx.Err() == nil && c.ctx.Err() != nil {
		<-c.done
		return c.Err()
	}
	return err
}

// serve handles one request and publishes the reply.
func (r *responder) serve(ctx context.Context, m Message) error {
	ctx, cancel := r.untilExpiry(ctx, m)
	defer cancel()
	if ctx.Err() != nil {
		return r.served(m, errRequestExpired)
	}
	payload, err := r.handler(ctx, m)
	switch {
	case ctx.Err() != nil:
		return r.served(m, errRequestExpired)
	case err != nil:
		return &requestFailure{payload, err, ctx}
	case m.Properties.ResponseTopic == "":
		return r.served(m, nil)
	}
	return r.served(m, r.reply(ctx, m, payload, nil))
}

// refuse tells the requester that its request could not be carried out.
func (r *responder) refuse(ctx context.Context, m Message, err error) error {
	ctx, cancel := r.untilExpiry(ctx, m)
	defer cancel()
	var failure *requestFailure
	if !errors.As(err, &failure) {
		return err
	}
	if r.failed != nil {
		if err := r.failed(ctx, m, failure.err); err != nil {
			return err
		}
	}
	switch {
	case ctx.Err() != nil:
		return r.served(m, errRequestExpired)
	case m.Properties.ResponseTopic == "":
		return r.served(m, failure.err)
	}
	return r.served(m, r.reply(valuesOf{ctx, failure.values}, m, failure.payload, failure.err))
}

// requestFailure is an error of a handler, with what is to be sent beside it.
type requestFailure struct {
	payload []byte
	err     error
	values  context.Context // the handler's: its values are for the hooks that see the reply
}

func (f *requestFailure) Error() string { return f.err.Error() }
func (f *requestFailure) Unwrap() error { return f.err }

// served ends the work on a request: err says why there is no reply. It returns an error if the request is to stay
// unacknowledged, so that the session's next client, or another one of a shared subscription, gets it.
func (r *responder) served(m Message, err error) error {
	switch {
	case err == nil:
	case r.client.ctx.Err() != nil, errors.Is(err, errGivenUp):
		return errGivenUp
	case errors.Is(err, errRequestExpired):
		r.client.countExpired()
	default:
		r.client.notices.report(slog.LevelWarn, "mqtt: a request was not answered", "request", m.Topic,
			"response topic", m.Properties.ResponseTopic, "error", err)
	}
	_ = m.Ack() // an error is not lost: it is the Err of sub or of its client
	return nil
}

// untilExpiry returns a ctx that ends when the request has expired or the client has ended.
func (r *responder) untilExpiry(ctx context.Context, m Message) (context.Context, context.CancelFunc) {
	var cancel context.CancelFunc
	if deadline, ok := r.deadline(m); ok {
		ctx, cancel = context.WithDeadline(ctx, deadline)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	stop := context.AfterFunc(r.client.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// deadline returns when a request expires. The time counts from its arrival.
func (r *responder) deadline(m Message) (deadline time.Time, ok bool) {
	switch {
	case m.Properties.MessageExpiry <= 0:
		return time.Time{}, false
	case r.sub.inbox != nil && m.expires != 0:
		return r.sub.inbox.began.Add(m.expires), true
	}
	return time.Now().Add(m.Properties.MessageExpiry), true // a fake has no arrival
}

// reply publishes what a handler returned. Its expiry is the rest of the request's, until ctx ends.
func (r *responder) reply(ctx context.Context, m Message, payload []byte, failure error) error {
	o := r.options
	p := PublishProperties{}
	if o.properties != nil {
		p = *o.properties
	}
	p.CorrelationData = m.Properties.CorrelationData
	if deadline, ok := ctx.Deadline(); ok && p.MessageExpiry == 0 {
		p.MessageExpiry = time.Until(deadline)
	}
	if failure != nil {
		payload = p.fail(payload, failure)
	}
	o.properties = &p
	sending := r.sending
	if r.intake.Err() != nil {
		var cancel context.CancelFunc
		sending, cancel = context.WithTimeout(r.client.ctx, replyGrace)
		defer cancel()
	}
	err := r.client.outbox.publish(valuesOf{sending, ctx}, m.Properties.ResponseTopic, payload, &o)
	if err != nil && sending.Err() != nil || errors.Is(err, ErrClosed) {
		return fmt.Errorf("%w: %w", errGivenUp, err)
	}
	return err
}

// valuesOf is a Context with the values of another one.
type valuesOf struct {
	context.Context
	values context.Context
}

func (c valuesOf) Value(key any) any { return c.values.Value(key) }

// fail changes the properties to those of a reply that reports a failure, and returns the payload of that reply.
func (p *PublishProperties) fail(payload []byte, failure error) []byte {
	text := failure.Error()
	p.UserProperties = slices.Clone(p.UserProperties)
	if e, ok := failure.(*ResponseError); ok {
		text = e.Text
		if payload == nil {
			payload = e.Reply.Payload
		}
		from := &e.Reply.Properties
		p.UTF8Payload, p.ContentType = from.UTF8Payload, from.ContentType
		for _, u := range from.UserProperties {
			if u.Key != errorProperty {
				p.UserProperties = append(p.UserProperties, u)
			}
		}
	}
	p.UserProperties = append(p.UserProperties, UserProperty{Key: errorProperty, Value: sendable(text)})
	return payload
}

// sendable makes from any text one that a packet can hold, with at most errorText bytes.
func sendable(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	return strings.ToValidUTF8(text[:min(len(text), errorText)], "") // removes half a character at the end
}
