//go:build linux

package boltstore

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// smallDiskVariable names the folder on which this program is to mount a small tmpfs.
const smallDiskVariable = "BOLTSTORE_TEST_SMALL_DISK"

// A file system that is full: the publish fails, the client lives, nothing that was accepted is lost, and all goes on when there is
// room again. The test runs once more in a mount namespace of its own. Where that is not allowed, TestDiskFails alone is the proof.
func TestSmallDisk(t *testing.T) {
	if folder := os.Getenv(smallDiskVariable); folder != "" {
		if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
		for name, online := range map[string]bool{"without a connection": false, "with a connection": true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { fillDisk(t, filepath.Join(folder, name), online) })
			})
		}
		return
	}
	again := exec.Command(os.Args[0], "-test.run=^TestSmallDisk$", "-test.v", "-test.timeout=1m")
	again.Env = append(os.Environ(), smallDiskVariable+"="+t.TempDir())
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
	text, err := again.CombinedOutput()
	switch {
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EINVAL):
		t.Skipf("no namespace of its own: %v", err)
	case err != nil:
		t.Errorf("%v\n%s", err, text)
	}
}

// fillDisk fills the disk from outside while a client publishes into a store on it, twice.
func fillDisk(t *testing.T, path string, online bool) {
	broker := mqtttest.NewBroker(t)
	if !online {
		broker.Offline()
	}
	s := open(t, path)
	defer os.Remove(path)
	connect := func(s *Store) mqtt.ClientV5 {
		c, err := mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(broker.DialContext), mqtt.WithStore(s), mqtt.WithConnectInBackground())
		check(t, err)
		return c
	}
	client := connect(s)
	var accepted []string
	publish := func(n int) (last error) {
		for i := range n {
			topic := fmt.Sprintf("t/%d/%d", len(accepted), i)
			if last = client.PublishAsync(t.Context(), topic, make([]byte, 500), mqtt.ExactlyOnce).Err(); last == nil {
				accepted = append(accepted, topic)
			}
		}
		return last
	}
	for range 2 {
		check(t, publish(10))
		room := fill(t, path+".ballast")
		var failed *mqtt.StoreError
		if err := publish(200); !errors.As(err, &failed) || !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("%v", err)
		}
		room()
		time.Sleep(10 * time.Second) // the store is tried again
		check(t, publish(10))
	}
	if !online {
		client.Close()
		check(t, s.Close())
		s = open(t, path)
		client = connect(s)
		broker.Online()
	}
	for range 100 {
		if len(client.Outstanding()) == 0 {
			break
		}
		time.Sleep(time.Second)
	}
	client.Close()
	got := broker.Received("#")
	if len(got) != len(accepted) {
		t.Errorf("%d have come, and %d were accepted", len(got), len(accepted))
	}
	for i := range min(len(got), len(accepted)) {
		if got[i].Topic != accepted[i] {
			t.Fatalf("%s has come, and not %s", got[i].Topic, accepted[i])
		}
	}
	t.Logf("%d accepted", len(accepted))
}

// fill takes all room that a file system has.
func fill(t *testing.T, path string) (remove func()) {
	f, err := os.Create(path)
	check(t, err)
	for block := make([]byte, 4096); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	return func() {
		check(t, f.Close())
		check(t, os.Remove(path))
	}
}
