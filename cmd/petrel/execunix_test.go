//go:build unix

package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// Ctrl-C at a terminal must not end a command, whose message would be rejected and lost.
func TestExecApart(t *testing.T) {
	e := execFlags{command: "kill -s 0 -- -$$"}
	if _, err := e.run(t.Context(), mqtt.Message{}); err != nil {
		t.Errorf("the command has no process group of its own: %v", err)
	}
}

// A command that leaves something running behind has ended well all the same.
func TestExecLeavesChild(t *testing.T) {
	e := execFlags{command: "sleep 5 & echo started"}
	if out, err := e.run(t.Context(), mqtt.Message{}); err != nil || string(out) != "started\n" {
		t.Errorf("%q, %v", out, err)
	}
}

// A timeout kills what the shell has started too.
func TestExecTimeoutKillsChildren(t *testing.T) {
	const left = 30 * time.Second
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	ended := make(chan error, 1)
	go func() {
		f, err := os.Open(pipe)
		if err == nil {
			_, err = io.ReadAll(f) // until nothing holds the other end
			f.Close()
		}
		ended <- err
	}()
	e := execFlags{command: "sleep 30 > '" + pipe + "'; true", timeout: seconds(500 * time.Millisecond)}
	if _, err := e.run(t.Context(), mqtt.Message{}); err == nil || !strings.Contains(err.Error(), "killed after 500ms") {
		t.Errorf("%v", err)
	}
	if err := <-ended; err != nil || time.Since(start) > left/2 {
		t.Errorf("a child of the shell lived on: %v, %v", time.Since(start), err)
	}
}
