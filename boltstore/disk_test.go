//go:build linux

package boltstore

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// disk is the file of a store, behind which another one can be put: /dev/full takes nothing, /dev/null takes everything and fails
// to sync, and a file that is open for reading only is what a read-only file system is.
type disk struct {
	t    *testing.T
	file *os.File
	own  int // a copy of the file's descriptor
}

func (d *disk) open(name string, flag int, mode fs.FileMode) (*os.File, error) {
	f, err := os.OpenFile(name, flag, mode)
	if err == nil {
		d.file = f
		d.own, err = syscall.Dup(int(f.Fd()))
	}
	return f, err
}

func (d *disk) replace(path string) {
	d.t.Helper()
	fd, err := syscall.Open(path, map[bool]int{true: syscall.O_RDWR, false: syscall.O_RDONLY}[path[:5] == "/dev/"], 0)
	check(d.t, err)
	check(d.t, syscall.Dup3(fd, int(d.file.Fd()), 0))
	check(d.t, syscall.Close(fd))
}

func (d *disk) mend() { check(d.t, syscall.Dup3(d.own, int(d.file.Fd()), 0)) }

// A disk that is full, that cannot be written and that does not sync: the publish fails, the client lives, and nothing that
// was accepted is lost.
func TestDiskFails(t *testing.T) {
	for name, c := range map[string]struct {
		path string
		want error
	}{
		"full":      {"/dev/full", syscall.ENOSPC},
		"no sync":   {"/dev/null", syscall.EINVAL},
		"read-only": {"", syscall.EBADF},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "store")
				d := &disk{t: t}
				s, err := Open(path, func(o *options) error { o.file = d.open; return nil })
				check(t, err)
				defer syscall.Close(d.own)
				broker := mqtttest.NewBroker(t)
				connect := func(s *Store) mqtt.ClientV5 {
					c, err := mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(broker.DialContext), mqtt.WithStore(s),
						mqtt.WithConnectInBackground())
					check(t, err)
					return c
				}
				broker.Offline()
				client := connect(s)
				publish := func(topic string) *mqtt.Delivery {
					return client.PublishAsync(t.Context(), topic, []byte("payload"), mqtt.ExactlyOnce)
				}
				before := publish("before")
				check(t, before.Err())
				if c.path == "" {
					c.path = path
				}
				d.replace(c.path)
				var failed *mqtt.StoreError
				if err := publish("failing").Err(); !errors.As(err, &failed) || !errors.Is(err, c.want) {
					t.Errorf("%v", err)
				}
				d.mend()
				time.Sleep(10 * time.Second) // the store is tried again
				after := publish("after")
				check(t, after.Err())
				client.Close()
				check(t, s.Close())

				s = open(t, path)
				client = connect(s)
				broker.Online()
				awaitOutcomes(client)
				var topics []string
				for _, m := range broker.Received("#") {
					topics = append(topics, m.Topic)
				}
				if len(topics) != 2 || topics[0] != "before" || topics[1] != "after" {
					t.Error(topics)
				}
				client.Close()
			})
		})
	}
}

// awaitOutcomes waits, in virtual time, until the outcome of everything in the store is known, and not longer than 100 s.
func awaitOutcomes(c mqtt.Lifecycle) {
	for range 100 {
		if len(c.Outstanding()) == 0 {
			return
		}
		time.Sleep(time.Second)
	}
}

// With an interval a sync that fails is that of nobody's message: the store takes nothing until one succeeds.
func TestSyncFails(t *testing.T) {
	d := &disk{t: t}
	s := open(t, filepath.Join(t.TempDir(), "store"), WithSyncInterval(time.Millisecond), func(o *options) error { o.file = d.open; return nil })
	defer syscall.Close(d.own)
	failing := func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.failed != nil
	}
	await := func(want bool) {
		t.Helper()
		for give := time.Now().Add(time.Minute); failing() != want; time.Sleep(time.Millisecond) {
			if time.Now().After(give) {
				t.Fatalf("failing: %v", !want)
			}
		}
	}
	check(t, s.Load(t.Context(), nothing))
	check(t, s.Apply(t.Context(), set("k", "1")))
	d.replace("/dev/null")
	check(t, s.Apply(t.Context(), set("k", "2")))
	await(true)
	if err := s.Apply(t.Context(), set("k", "3")); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("%v", err)
	}
	d.mend()
	await(false)
}
