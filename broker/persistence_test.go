package broker

import (
	"errors"
	"io/fs"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
	"github.com/petrel-mqtt/mqtt/codec"
)

// A will is there after a restart: retained, in place of what its client had published before, and for who was away.
func TestWillsOutliveTheBroker(t *testing.T) {
	t.Parallel()
	for _, qos := range []byte{0, 1, 2} {
		c := onLoopback()
		c.PersistenceFile = t.TempDir() + "/petrel.db"
		b := start(t, c)
		away, _ := join(t, b, codec.V5, sessionOf("away"))
		away.subscribe(1, 2, "status/+")
		away.send(&codec.Disconnect{})
		away.ended()
		watcher, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
		watcher.subscribe(1, 0, "status/+")
		a, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true, Will: &codec.Will{
			Topic: "status/a", Payload: []byte("off"), QoS: qos, Retain: true,
		}})
		a.send(&codec.Publish{Topic: "status/a", Payload: []byte("on"), Retain: true})
		receive[*codec.Publish](watcher)
		a.conn.Close()
		if m := receive[*codec.Publish](watcher); string(m.Payload) != "off" {
			t.Errorf("QoS %d: got %+v", qos, m)
		}
		check(t, b.Shutdown(t.Context()))

		b = start(t, c)
		late, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
		late.subscribe(1, 0, "status/+")
		if m := receive[*codec.Publish](late); string(m.Payload) != "off" || !m.Retain {
			t.Errorf("QoS %d: retained %+v", qos, m)
		}
		if qos == 0 {
			continue // it does not wait for anybody
		}
		resume := sessionOf("away")
		resume.CleanStart = false
		away, _ = join(t, b, codec.V5, resume)
		if m := receive[*codec.Publish](away); string(m.Payload) != "off" || m.QoS != qos {
			t.Errorf("QoS %d: after a restart %+v", qos, m)
		}
	}
}

// What a persistence file holds can be read when no broker has it.
func TestReadStored(t *testing.T) {
	t.Parallel()
	c := onLoopback()
	c.PersistenceFile = t.TempDir() + "/petrel.db"
	if _, err := ReadStored(c.PersistenceFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that there is not: %v", err)
	}
	b := start(t, c)
	if _, err := ReadStored(c.PersistenceFile); err == nil || !strings.HasSuffix(err.Error(), "is in use; stop the other broker, or name another file") {
		t.Errorf("a file that a broker has: %v", err)
	}
	away := sessionOf("away")
	away.Username, away.HasUsername = "alice", true
	away.Will = &codec.Will{Topic: "gone", Properties: codec.WillProperties{WillDelay: time.Hour}}
	p, _ := join(t, b, codec.V5, away)
	p.subscribe(1, 1, "t/#", "a")
	other, _ := join(t, b, codec.V311, &codec.Connect{ClientID: "old"})
	pub, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
	publish := func(topic, payload string, retain bool) {
		pub.send(&codec.Publish{Topic: topic, Payload: []byte(payload), QoS: 1, PacketID: 1, Retain: retain})
		receive[*codec.Puback](pub)
	}
	publish("t/1", "acknowledged", true)
	p.send(&codec.Puback{PacketID: receive[*codec.Publish](p).PacketID})
	p.quiet()
	p.conn.Close()
	publish("t/2", "four", false)
	publish("t/3", "fives", false)
	publish("t/0", "\x00", true)
	publish("t/gone", "x", true)
	publish("t/gone", "", true)
	other.send(&codec.Disconnect{})
	other.ended()
	check(t, b.Shutdown(t.Context()))

	got, err := ReadStored(c.PersistenceFile)
	check(t, err)
	expiry := uint32(300)
	want := &Stored{
		Sessions: []StoredSession{
			{
				ClientID: "away", Username: "alice", Version: 5, Listener: "default", Expiry: &expiry, Will: "gone",
				Subscriptions: []StoredSubscription{{"a", 1}, {"t/#", 1}}, Messages: 5, Bytes: 11,
			},
			{ClientID: "old", Version: 4, Listener: "default", Subscriptions: []StoredSubscription{}},
		},
		Retained: []StoredMessage{{Topic: "t/0", QoS: 1, Payload: []byte{0}}, {Topic: "t/1", QoS: 1, Payload: []byte("acknowledged")}},
	}
	if ends := got.Sessions[0].Ends; ends == nil || time.Until(*ends) > 300*time.Second || time.Until(*ends) < 200*time.Second {
		t.Errorf("ends %v", ends)
	}
	got.Sessions[0].Ends = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	again, err := ReadStored(c.PersistenceFile) // it has not changed
	check(t, err)
	again.Sessions[0].Ends = nil
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Check opens a persistence file that there is.
func TestCheckPersistenceFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	other := dir + "/other.db"
	db, err := bbolt.Open(other, 0o600, nil)
	check(t, err)
	check(t, db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("clients"))
		return err
	}))
	check(t, db.Close())
	used := onLoopback()
	used.PersistenceFile = dir + "/used.db"
	b := start(t, used)
	for _, c := range []struct{ file, want, warning string }{
		{other, "persistence-file: " + other + ": was written by an older broker, or by another program", ""},
		{writeFile(t, dir+"/text", "no database at all"), "persistence-file: ", ""},
		{writeFile(t, dir+"/empty", ""), "", ""},
		{used.PersistenceFile, "", "the persistence file is in use, which is right if this broker runs"},
	} {
		config := onLoopback()
		config.PersistenceFile = c.file
		warnings, err := warningsOf(t, config, (*Broker).Check)
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) || strings.Join(warnings, "\n") != c.warning {
			t.Errorf("%s: got %v and %q, want %q and %q", c.file, err, warnings, c.want, c.warning)
		}
		if _, ok := err.(*FileError); err != nil && !ok {
			t.Errorf("%v is a %T", err, err)
		}
	}
	check(t, b.Shutdown(t.Context()))
	used.PersistenceFile = dir + "/used.db"
	if warnings, err := warningsOf(t, used, (*Broker).Check); err != nil || warnings != nil {
		t.Errorf("%v, %q", err, warnings)
	}
}

// fullDisk is a persistence file that cannot be written.
type fullDisk struct{ engine.Store }

func (fullDisk) Load(func(byte, []byte, []byte) error) error { return nil }
func (fullDisk) Commit([]engine.Change) error                { return errors.New("no space left on device") }
func (fullDisk) Close() error                                { return nil }

// A broker that cannot keep what it has to is not ready, and says why.
func TestNotReadyWithoutStore(t *testing.T) {
	b, err := New(onLoopback())
	check(t, err)
	config := b.engineConfig()
	config.Store = fullDisk{}
	b.engine, err = engine.New(config)
	check(t, err)
	check(t, b.ready())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	check(t, err)
	ours, err := l.Accept()
	check(t, err)
	served := make(chan error)
	go func() {
		s := &socket{Conn: ours, listener: newListener(Listener{}, b.log, time.Hour)}
		s.known.Do(func() {}) // it never was a stranger
		served <- b.engine.Serve(&conn{Conn: s, socket: s}, engine.Peer{Connected: func() engine.Client { return engine.Client{Remote: ours.RemoteAddr()} }})
	}()
	p := &peer{t, c, codec.V5}
	p.send(&codec.Connect{CleanStart: true}, &codec.Publish{Topic: "t", Payload: []byte("x"), QoS: 1, PacketID: 1, Retain: true})
	receive[*codec.Connack](p)
	if ack := receive[*codec.Puback](p); ack.Code != codec.QuotaExceeded {
		t.Errorf("%v", ack.Code)
	}
	if err := b.ready(); !errors.Is(err, errStoreFails) {
		t.Errorf("ready: %v", err)
	}
	c.Close()
	<-served
	ours.Close()
	b.engine.Close()
	b.engine.Wait()
}

// A retained message with the longest topic that there is outlives the broker, and keeps nobody else's messages from the file.
func TestLongTopicsAreStored(t *testing.T) {
	t.Parallel()
	for _, sync := range []Sync{SyncAlways, SyncInterval} {
		c := onLoopback()
		c.PersistenceFile, c.PersistenceSync = t.TempDir()+"/petrel.db", sync
		b := start(t, c)
		p, _ := join(t, b, codec.V5, &codec.Connect{CleanStart: true})
		long := []string{strings.Repeat("a", 65_535), strings.Repeat("a", 65_534) + "b", strings.Repeat("c", 32_768), strings.Repeat("d", 40_000)}
		for _, topic := range append(long, "short") {
			p.send(&codec.Publish{Topic: topic, QoS: 1, PacketID: 1, Retain: true, Payload: []byte(topic[len(topic)-1:])})
			if ack := receive[*codec.Puback](p); ack.Code.Failed() {
				t.Errorf("sync %v: %d bytes: %v", sync, len(topic), ack.Code)
			}
		}
		p.send(&codec.Publish{Topic: long[3], QoS: 1, PacketID: 1, Retain: true}) // the end of it
		receive[*codec.Puback](p)
		check(t, b.Shutdown(t.Context()))

		b = start(t, c)
		p, _ = join(t, b, codec.V5, &codec.Connect{CleanStart: true})
		p.subscribe(1, 1, "#")
		got := map[string]string{}
		for range 4 {
			m := receive[*codec.Publish](p)
			got[m.Topic] = string(m.Payload)
		}
		for i, want := range []string{"a", "b", "c"} {
			if got[long[i]] != want {
				t.Errorf("sync %v: %d bytes: got %q", sync, len(long[i]), got[long[i]])
			}
		}
		if got["short"] != "t" {
			t.Errorf("sync %v: short: got %q", sync, got["short"])
		}
	}
}
