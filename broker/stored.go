package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
)

// Stored is what a persistence file holds. Its JSON is what petrel broker sessions and retained write.
type Stored struct {
	Sessions []StoredSession // by client identifier
	Retained []StoredMessage // by topic
}

// StoredSession is a session that outlives its connection.
type StoredSession struct {
	ClientID      string               `json:"client_id"`
	Username      string               `json:"username,omitempty"` // whose session it is
	Version       byte                 `json:"version"`            // 5, or 4 for MQTT 3.1.1
	Listener      string               `json:"listener"`           // of the latest connection
	Ends          *time.Time           `json:"ends,omitempty"`     // nil: when the client has been away for Expiry
	Expiry        *uint32              `json:"expiry,omitempty"`   // in seconds; nil: never
	Will          string               `json:"will,omitempty"`     // its topic
	Subscriptions []StoredSubscription `json:"subscriptions"`      // by filter
	Messages      int                  `json:"messages"`           // that the client has still to get or acknowledge
	Bytes         int                  `json:"bytes"`              // of their payloads
}

// StoredSubscription is a subscription of such a session.
type StoredSubscription struct {
	Filter string `json:"filter"`
	QoS    byte   `json:"qos"`
}

// StoredMessage is a retained message.
type StoredMessage struct {
	Topic   string     `json:"topic"`
	QoS     byte       `json:"qos"`
	Payload []byte     `json:"payload"`           // in Base64
	Expires *time.Time `json:"expires,omitempty"` // nil: never
}

// ReadStored reads a persistence file, and changes nothing. No broker may be using it.
func ReadStored(path string) (*Stored, error) {
	s, err := openStoreToRead(path)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	contents, err := engine.Look(s)
	if err != nil {
		return nil, &FileError{fmt.Errorf("persistence-file: %s: %w", path, err)}
	}
	of := new(Stored)
	for i := range contents.Sessions {
		of.Sessions = append(of.Sessions, newStoredSession(&contents.Sessions[i]))
	}
	for i := range contents.Retained {
		m := &contents.Retained[i]
		of.Retained = append(of.Retained, StoredMessage{m.Topic, m.QoS, m.Payload, timeOrNil(m.Expires)})
	}
	return of, nil
}

func newStoredSession(s *engine.SessionInfo) StoredSession {
	of := StoredSession{
		ClientID: s.ID, Username: s.Username, Version: s.Version, Listener: s.Listener, Ends: timeOrNil(s.Ends), Will: s.Will,
		Messages: s.Messages, Bytes: s.Bytes, Subscriptions: []StoredSubscription{},
	}
	if !s.Endless {
		of.Expiry = &s.Expiry
	}
	for _, sub := range s.Subscriptions {
		of.Subscriptions = append(of.Subscriptions, StoredSubscription{sub.Filter, sub.QoS})
	}
	return of
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// openStoreToRead opens a persistence file that there is.
func openStoreToRead(path string) (*store, error) {
	db, err := bbolt.Open(path, 0, &bbolt.Options{Timeout: time.Second, ReadOnly: true})
	if err != nil {
		return nil, storeError(path, err)
	}
	err = db.View(func(tx *bbolt.Tx) error {
		if tx.Bucket(storeForm) == nil {
			return errOtherFile
		}
		return nil
	})
	if err != nil {
		db.Close()
		return nil, &FileError{fmt.Errorf("persistence-file: %s: %w", path, err)}
	}
	return &store{db}, nil
}

// checkStore looks whether a start could use the persistence file. It reports whether a broker has it already.
func checkStore(path string) (busy bool, err error) {
	if path == "" {
		return false, nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, checkFolder(path)
	}
	if err == nil && info.Size() == 0 {
		return false, nil // a start makes something of it
	}
	s, err := openStoreToRead(path)
	switch {
	case err == nil:
		return false, s.Close()
	case errors.Is(err, errInUse):
		return true, nil
	}
	return false, err
}
