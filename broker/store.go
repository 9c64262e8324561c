package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/storage"
	"github.com/mochi-mqtt/server/v2/hooks/storage/bolt"
	"github.com/mochi-mqtt/server/v2/packets"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// store keeps sessions and messages in a file, by mochi's own hook. Seen in mochi 2.7.9, and mended here:
//   - a subscription that was refused is kept, and in force after a restart;
//   - packet identifiers are not kept, so that a session with a message in flight can never be resumed;
//   - sessions that are kept never expire;
//   - the housekeeping goroutine, which nobody waits for, may call the hook while it closes the file.
type store struct {
	bolt.Hook

	mu     sync.RWMutex // guards closed, and the file while it is used
	closed bool
}

// Provides leaves out the numbers under $SYS, which begin anew.
func (s *store) Provides(b byte) bool {
	return b != mochi.OnSysInfoTick && b != mochi.StoredSysInfo && s.Hook.Provides(b)
}

func storeOptions(path string) *bolt.Options {
	return &bolt.Options{Path: path, Options: &bbolt.Options{Timeout: time.Second}}
}

func storeError(path string, err error) error {
	if errors.Is(err, bbolterrors.ErrTimeout) {
		return fmt.Errorf("persistence-file: %s is in use; stop the other broker, or name another file", path)
	}
	var opening *fs.PathError
	if errors.As(err, &opening) {
		err = opening // without mochi's words
	}
	return &FileError{fmt.Errorf("persistence-file: %w", err)}
}

func (s *store) Stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return s.Hook.Stop()
}

// while calls f if the file is open, and keeps it so.
func (s *store) while(f func()) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if !s.closed {
		f()
	}
}

func (s *store) OnSubscribed(cl *mochi.Client, pk packets.Packet, codes []byte) {
	var filters packets.Subscriptions
	var granted []byte
	for i, code := range codes {
		if code < packets.ErrUnspecifiedError.Code {
			filters, granted = append(filters, pk.Filters[i]), append(granted, code)
		}
	}
	pk.Filters = filters
	s.while(func() { s.Hook.OnSubscribed(cl, pk, granted) })
}

func (s *store) OnRetainedExpired(topic string) {
	s.while(func() { s.Hook.OnRetainedExpired(topic) })
}

func (s *store) OnClientExpired(cl *mochi.Client) {
	s.while(func() { s.Hook.OnClientExpired(cl) })
}

func (s *store) OnQosDropped(cl *mochi.Client, pk packets.Packet) {
	s.while(func() { s.Hook.OnQosDropped(cl, pk) })
}

func (s *store) OnWillSent(cl *mochi.Client, pk packets.Packet) {
	s.while(func() { s.Hook.OnWillSent(cl, pk) })
}

func (s *store) StoredClients() ([]storage.Client, error) {
	clients, err := s.Hook.StoredClients()
	for i := range clients {
		clients[i].Properties.SessionExpiryIntervalFlag = clients[i].ProtocolVersion == 5
	}
	return clients, err
}

// StoredInflightMessages finds the packet identifier of a message at the end of its key.
func (s *store) StoredInflightMessages() ([]storage.Message, error) {
	messages, err := s.Hook.StoredInflightMessages()
	for i := range messages {
		m := &messages[i]
		id, err := strconv.ParseUint(m.ID[strings.LastIndexByte(m.ID, ':')+1:], 10, 16)
		if err != nil {
			return nil, fmt.Errorf("a message with the key %q", m.ID)
		}
		m.PacketID = uint16(id)
		m.Properties.PayloadFormatFlag = m.Properties.PayloadFormat != 0
		if m.FixedHeader.Type == packets.Publish {
			m.Created = int64(id) | sentBit
		}
	}
	return messages, err
}
