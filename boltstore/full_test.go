//go:build linux

package boltstore

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// smallDiskVariable names the folder in which this program is to test, and with which limit.
const smallDiskVariable = "BOLTSTORE_TEST_SMALL_DISK"

// limits are ways to have the system refuse a file more room. They return what takes the room, and the error of a write then.
var limits = map[string]func(t *testing.T, folder string) (take func(t *testing.T, path string) (giveBack func()), refusal error){
	"size of files": func(*testing.T, string) (func(*testing.T, string) func(), error) {
		signal.Ignore(syscall.SIGXFSZ)
		return limitFile, syscall.EFBIG
	},
	"tmpfs": func(t *testing.T, folder string) (func(*testing.T, string) func(), error) {
		check(t, syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=1m"))
		return fill, syscall.ENOSPC
	},
}

// A file system that is full, and a file that may not grow: the publish fails, the client lives, nothing that was accepted is
// lost, and all goes on when there is room again. The test runs once more for each, in a process of its own: with a tmpfs in a
// mount namespace of its own. Where the system forbids that, the limit of the size of files is the proof.
func TestSmallDisk(t *testing.T) {
	if limit, folder, again := strings.Cut(os.Getenv(smallDiskVariable), "="); again {
		take, refusal := limits[limit](t, folder)
		for name, online := range map[string]bool{"without a connection": false, "with a connection": true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { fillDisk(t, filepath.Join(folder, name), online, take, refusal) })
			})
		}
		return
	}
	for limit := range limits {
		again := exec.Command(os.Args[0], "-test.run=^TestSmallDisk$", "-test.v", "-test.timeout=1m")
		again.Env = append(os.Environ(), smallDiskVariable+"="+limit+"="+t.TempDir())
		if limit == "tmpfs" {
			again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
				UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}}
		}
		text, err := again.CombinedOutput()
		switch {
		case limit == "tmpfs" && (errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINVAL)):
			t.Logf("no namespace of its own: %v", err)
		case err != nil:
			t.Errorf("%s: %v\n%s", limit, err, text)
		}
	}
}

// fillDisk takes all room while a client publishes into a store, twice.
func fillDisk(t *testing.T, path string, online bool, take func(*testing.T, string) func(), refusal error) {
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
	publish := func(n, size int) (last error) {
		for i := range n {
			topic := fmt.Sprintf("t/%d/%d", len(accepted), i)
			if last = client.PublishAsync(t.Context(), topic, make([]byte, size), mqtt.ExactlyOnce).Err(); last == nil {
				accepted = append(accepted, topic)
			}
		}
		return last
	}
	for range 2 {
		check(t, publish(10, 500))
		room := take(t, path)
		publish(200, 500) // some are taken: they find room in the file, which others have left
		info, err := os.Stat(path)
		check(t, err)
		var failed *mqtt.StoreError
		if err := publish(1, 2*int(info.Size())); !errors.As(err, &failed) || !strings.Contains(err.Error(), refusal.Error()) {
			t.Errorf("%v", err)
		}
		room()
		time.Sleep(10 * time.Second) // the store is tried again
		check(t, publish(10, 500))
	}
	if !online {
		client.Close()
		check(t, s.Close())
		s = open(t, path)
		client = connect(s)
		broker.Online()
	}
	awaitOutcomes(client)
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

// limitFile has the system refuse everything that makes a file of this process larger than the one at path.
func limitFile(t *testing.T, path string) (lift func()) {
	info, err := os.Stat(path)
	check(t, err)
	var before syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before))
	check(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: uint64(info.Size()), Max: before.Max}))
	return func() { check(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before)) }
}

// fill takes all room that the file system of path has.
func fill(t *testing.T, path string) (remove func()) {
	path += ".ballast"
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
