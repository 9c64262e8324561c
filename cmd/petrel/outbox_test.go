package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/boltstore"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fillStore makes a store with a message in each state: 1 delivered, 2 refused, 3 sent, 4 waiting.
func fillStore(t *testing.T, path string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s, err := boltstore.Open(path)
		check(t, err)
		b := mqtttest.NewBroker(t)
		c, err := mqtt.NewClient(t.Context(), "mqtt://me:secret@test", mqtt.WithDialer(b.DialContext), mqtt.WithStore(s),
			mqtt.WithClientID("billing"), mqtt.WithMaxInFlight(1))
		check(t, err)
		check(t, c.Publish(t.Context(), "a/taken", []byte("1"), mqtt.AtLeastOnce, mqtt.StoreName("the first")))
		b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Times: 1, Reason: 0x87})
		if err := c.Publish(t.Context(), "a/refused", []byte("22"), mqtt.AtLeastOnce); err == nil {
			t.Error("not refused")
		}
		b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Drop: true})
		check(t, c.PublishAsync(t.Context(), "a/silent", []byte("333"), mqtt.AtLeastOnce).Err())
		check(t, c.PublishAsync(t.Context(), "a/waits", []byte("4444"), mqtt.AtLeastOnce, mqtt.StoreName("bell\x07"),
			&mqtt.PublishProperties{MessageExpiry: time.Hour}).Err())
		time.Sleep(time.Second)
		check(t, c.Close())
		check(t, s.Close())
	})
}

func outbox(args ...string) result {
	return run(context.Background(), nil, "", append([]string{"outbox"}, args...)...)
}

func TestOutboxList(t *testing.T) {
	path := filepath.Join(t.TempDir(), "outgoing.db")
	fillStore(t, path)
	for _, c := range []struct{ golden, flag string }{{"outbox-list", ""}, {"outbox-list-json", "--json"}} {
		args := strings.Fields("list " + path + " " + c.flag)
		r := outbox(args...)
		if r.code != exitOK || r.errors != "" {
			t.Errorf("%s: %+v", c.golden, r)
		}
		compare(t, filepath.Join("testdata", "golden", c.golden+".txt"), r.out)
	}
}

func TestOutboxDrop(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string // the numbers that are left, or the error
	}{
		{[]string{"2", "3"}, "1 4"},
		{[]string{"--name", "the first"}, "2 3 4"},
		{[]string{"3", "--name", "bell\x07"}, "1 2"},
		{[]string{"--failed"}, "1 3 4"},
		{[]string{"--all"}, ""},
		{[]string{"1", "5"}, "petrel outbox drop: the store has no message 5\n"},
		{[]string{"1", "--name", "none"}, `petrel outbox drop: the store has no message with the name "none"` + "\n"},
	} {
		path := filepath.Join(t.TempDir(), "outgoing.db")
		fillStore(t, path)
		r := outbox(append([]string{"drop", path}, c.args...)...)
		if r.errors != "" {
			if r.errors != c.want || r.code != exitUsage || left(t, path) != "1 2 3 4" {
				t.Errorf("%q: %+v", c.args, r)
			}
			continue
		}
		if got := left(t, path); got != c.want {
			t.Errorf("%q: left are %q", c.args, got)
		}
	}
}

// left returns the numbers of the messages in a store.
func left(t *testing.T, path string) string {
	t.Helper()
	r := outbox("list", path)
	if r.code != exitOK {
		t.Fatalf("%+v", r)
	}
	numbers := []string{"", "", "", "", ""}
	for i, line := range strings.Split(strings.TrimSpace(r.out), "\n") {
		if i > 1 {
			number := strings.Fields(line)[0]
			numbers[number[0]-'0'] = number
		}
	}
	return strings.Join(strings.Fields(strings.Join(numbers, " ")), " ")
}

// A store that a client has open, one that is no store, and one that is not there are left alone.
func TestOutboxRefuses(t *testing.T) {
	folder := t.TempDir()
	used, empty := filepath.Join(folder, "used"), filepath.Join(folder, "empty")
	check(t, os.WriteFile(empty, nil, 0o600))
	s, err := boltstore.Open(used)
	check(t, err)
	defer s.Close()
	for _, c := range []struct {
		path, want string
		code       int
	}{
		{used, used + " is in use; stop the client whose store it is, and start it again afterwards", exitFailed},
		{empty, "read " + empty + ": the file is empty", exitUsage},
		{filepath.Join(folder, "none"), "stat " + folder + "/none: no such file or directory", exitUsage},
	} {
		for _, args := range [][]string{{"list", c.path}, {"drop", c.path, "--all"}} {
			r := outbox(args...)
			if want := "petrel outbox " + args[0] + ": " + c.want + "\n"; r.code != c.code || r.errors != want {
				t.Errorf("%q: %+v", args, r)
			}
		}
	}
	if files, _ := os.ReadDir(folder); len(files) != 2 {
		t.Error(files)
	}
}
