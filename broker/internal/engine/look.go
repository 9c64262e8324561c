package engine

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Contents is what a store holds.
type Contents struct {
	Sessions []SessionInfo  // by client identifier
	Retained []RetainedInfo // by topic
}

// SessionInfo is a session in a store.
type SessionInfo struct {
	ID, Username  string
	Version       byte      // of the latest connection: 5, or 4 for MQTT 3.1.1
	Listener      string    // of the latest connection
	Endless       bool      // it does not expire
	Expiry        uint32    // how long the client may be away, in seconds, unless it is endless
	Ends          time.Time // zero if the client was connected, or the session is endless
	Subscriptions []SubscriptionInfo
	Will          string // its topic; "": there is none
	Messages      int    // that the client has still to get or to acknowledge
	Bytes         int    // of their payloads
}

// SubscriptionInfo is a subscription in a store.
type SubscriptionInfo struct {
	Filter string
	QoS    byte
}

// RetainedInfo is a retained message in a store.
type RetainedInfo struct {
	Topic   string
	QoS     byte
	Payload []byte
	Expires time.Time // zero: never
}

// Look reads a store, and changes nothing.
func Look(s Store) (Contents, error) {
	l := looker{engine: &Engine{began: time.Now()}, sessions: map[uint64]*SessionInfo{}, ledgers: map[uint64]*restoredLedger{}}
	if err := s.Load(l.read); err != nil {
		return Contents{}, err
	}
	for _, m := range l.messages {
		for i := range m.targets {
			n := m.targets[i].number
			if s := l.sessions[n]; s != nil && l.ledgers[n].needs(m.sequence) {
				s.Messages++
				s.Bytes += len(m.payload)
			}
		}
	}
	c := Contents{Retained: l.retained}
	for _, s := range l.sessions {
		c.Sessions = append(c.Sessions, *s)
	}
	slices.SortFunc(c.Sessions, func(a, b SessionInfo) int { return strings.Compare(a.ID, b.ID) })
	return c, nil
}

// looker is what has been read of a store.
type looker struct {
	engine   *Engine // whose clock counts
	sessions map[uint64]*SessionInfo
	ledgers  map[uint64]*restoredLedger
	messages []restoredMessage
	retained []RetainedInfo
}

func (l *looker) read(bucket byte, key, value []byte) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("bucket %c, key %x: %w", bucket, key, err)
		}
	}()
	if bucket == bucketRetained {
		return l.readRetained(value)
	}
	if len(key) < 8 {
		return errRecord
	}
	n := binary.BigEndian.Uint64(key)
	switch bucket {
	case bucketLedgers:
		l.ledgers[n], err = newRestoredLedger(value)
		return err
	case bucketMessages:
		m, targets, err := l.engine.readMessage(value)
		if err == nil {
			m.sequence = n
			l.messages = append(l.messages, restoredMessage{m, targets})
		}
		return err
	case bucketSessions:
		return l.readSession(n, value)
	}
	return nil
}

func (l *looker) readRetained(value []byte) error {
	m, _, err := l.engine.readMessage(value)
	if err != nil || m.expired(l.engine.now()) {
		return err
	}
	of := RetainedInfo{Topic: m.topic, QoS: m.qos, Payload: m.payload}
	if m.expires != 0 {
		of.Expires = l.engine.began.Add(m.expires)
	}
	l.retained = append(l.retained, of)
	return nil
}

func (l *looker) readSession(n uint64, value []byte) error {
	var of storedSession
	if err := json.Unmarshal(value, &of); err != nil {
		return errors.Join(errRecord, err)
	}
	if of.Form != recordForm {
		return errRecord
	}
	s := &SessionInfo{ID: of.ID, Username: of.Owner, Version: of.Version, Listener: of.Listener, Endless: of.Expiry == never, Expiry: of.Expiry}
	if of.EndsAt != 0 {
		s.Ends = time.UnixMilli(of.EndsAt)
	}
	for _, sub := range of.Subscriptions {
		s.Subscriptions = append(s.Subscriptions, SubscriptionInfo{sub.Filter, sub.QoS})
	}
	slices.SortFunc(s.Subscriptions, func(a, b SubscriptionInfo) int { return strings.Compare(a.Filter, b.Filter) })
	if of.Will != nil {
		s.Will = of.Will.Topic
	}
	l.sessions[n] = s
	return nil
}
