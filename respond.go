package mqtt

import (
	"context"
	"errors"
	"fmt"
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

// responder is one call of Respond.
type responder struct {
	client  *client
	sub     *Subscription
	handler func(context.Context, Message) ([]byte, error)
	options publishOptions  // of replies
	intake  context.Context // ends when no more requests should be taken
	base    context.Context // ends with the client
	sending context.Context // ends replyGrace after intake
}

func (c clientV5) Respond(ctx context.Context, sub *Subscription, workers int, handler func(context.Context, Message) ([]byte, error), replyOpts ...PublishOptionV5) error {
	r := &responder{client: c.client, sub: sub, handler: handler, options: publishOptions{qos: AtLeastOnce}}
	addOptions(&r.options, replyOpts)
	return r.run(ctx, workers)
}

func (r *responder) run(ctx context.Context, workers int) error {
	c := r.client
	intake, stop := context.WithCancel(ctx)
	defer stop()
	base, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	defer context.AfterFunc(c.ctx, func() {
		stop()
		end()
	})()
	sending, stopSending := context.WithCancel(base)
	defer stopSending()
	defer context.AfterFunc(intake, func() { time.AfterFunc(replyGrace, stopSending) })()
	r.intake, r.base, r.sending = intake, base, sending

	err := r.sub.Handle(intake, workers, r.serve)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case c.ctx.Err() != nil:
		<-c.done
		return c.Err()
	}
	return err
}

// serve handles one request.
func (r *responder) serve(m Message) {
	ctx := r.base
	if deadline, ok := r.deadline(m); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	switch err := r.handle(ctx, m); {
	case err == nil:
	case r.client.ctx.Err() != nil, errors.Is(err, errGivenUp):
		return // not acknowledged, so that the session's next client, or another client of a shared subscription, gets it
	case errors.Is(err, errRequestExpired):
		r.client.countExpired()
	default:
		r.client.config.logger.Warn("mqtt: a request was not answered", "request", m.Topic,
			"response topic", m.Properties.ResponseTopic, "error", err)
	}
	_ = m.Ack() // an error is not lost: it is the Err of sub or of its client
}

// handle handles a request and publishes the reply. ctx ends when the request has expired.
func (r *responder) handle(ctx context.Context, m Message) error {
	if ctx.Err() != nil {
		return errRequestExpired
	}
	payload, err := r.handler(ctx, m)
	switch {
	case ctx.Err() != nil:
		return errRequestExpired
	case m.Properties.ResponseTopic == "":
		return err
	}
	return r.reply(ctx, m, payload, err)
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
		sending, cancel = context.WithTimeout(r.base, replyGrace)
		defer cancel()
	}
	err := r.client.outbox.publish(sending, m.Properties.ResponseTopic, payload, &o)
	if err != nil && sending.Err() != nil || errors.Is(err, ErrClosed) {
		return fmt.Errorf("%w: %w", errGivenUp, err)
	}
	return err
}

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
