//go:build unix

package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// Ctrl-C at a terminal must not end a command, whose message would be rejected and lost.
func TestExecApart(t *testing.T) {
	e := execFlags{command: "kill -s 0 -- -$$"}
	if _, err := e.run(t.Context(), mqtt.Message{}); err != nil {
		t.Errorf("the command has no process group of its own: %v", err)
	}
}

// Commands do not get what may have a password or a token in it.
func TestExecEnvironment(t *testing.T) {
	for _, name := range secret {
		t.Setenv(name, "s3cret")
	}
	t.Setenv("PETREL_KEEP_ALIVE", "7")
	e := execFlags{command: "env | grep PETREL_"}
	if out, err := e.run(t.Context(), mqtt.Message{}); err != nil || string(out) != "PETREL_KEEP_ALIVE=7\n" {
		t.Errorf("%q, %v", out, err)
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
	const life = 2 * patience // of the child
	for timeout := 500 * time.Millisecond; ; timeout *= 2 {
		p := newPipe(t)
		start := time.Now()
		e := execFlags{command: fmt.Sprintf("sleep %v > '%s'; true", life.Seconds(), p.path), timeout: seconds(timeout)}
		if _, err := e.run(t.Context(), mqtt.Message{}); err == nil || !strings.Contains(err.Error(), fmt.Sprint("killed after ", timeout)) {
			t.Errorf("%v", err)
		}
		if !p.opened() {
			continue // the shell was killed before it had a child: the machine is busy
		}
		if <-p.ended; time.Since(start) > life/2 {
			t.Errorf("a child of the shell lived on: %v", time.Since(start))
		}
		return
	}
}

// pipe is a named pipe that is read.
type pipe struct {
	path         string
	begun, ended chan struct{} // closed when somebody has opened it for writing, and when nobody has it open any more
}

func newPipe(t *testing.T) *pipe {
	p := &pipe{filepath.Join(t.TempDir(), "pipe"), make(chan struct{}), make(chan struct{})}
	if err := syscall.Mkfifo(p.path, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		f, err := os.Open(p.path)
		close(p.begun)
		if err == nil {
			_, err = io.ReadAll(f)
			f.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}()
	return p
}

// opened reports whether somebody has opened it for writing. If not, nobody will: it is over.
func (p *pipe) opened() bool {
	select {
	case <-p.begun:
		return true
	default:
	}
	if f, err := os.OpenFile(p.path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil { // ends the reader
		f.Close()
	}
	return false
}

// A first Ctrl-C, or a terminal that goes away, lets a command end well. A second one ends the program at once, and the
// command with what it has started.
func TestInterrupts(t *testing.T) {
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP) // a program that this test starts inherits a signal that is ignored, as nohup does
	defer signal.Stop(heard)
	b := mqtttest.NewBroker(t)
	retained(text("jobs", "x"))(nil, b)
	url := b.Listen()
	for _, c := range []struct {
		line   string
		first  syscall.Signal
		second bool
		code   int
	}{
		{"sub -t jobs", syscall.SIGINT, false, exitOK},
		{"sub -t jobs", syscall.SIGHUP, false, exitOK},
		{"sub -t jobs", syscall.SIGINT, true, exitInterrupted},
		{"sub -t jobs --workers 2", syscall.SIGTERM, true, exitInterrupted},
	} {
		p, stop := newPipe(t), filepath.Join(t.TempDir(), "stop")
		command := fmt.Sprintf("{ for i in $(seq 5000); do [ ! -e '%s' ] || exit 0; sleep 0.05; done; } > '%s'", stop, p.path)
		cmd := exec.Command(os.Args[0], append(words(c.line), "--url", url, "--exec", command)...)
		cmd.Env = append(os.Environ(), asProgram+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		stderr, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		<-p.begun
		syscall.Kill(-cmd.Process.Pid, c.first)
		for lines := bufio.NewScanner(stderr); lines.Scan() && !strings.Contains(lines.Text(), "waiting for commands to end"); {
		}
		if c.second {
			syscall.Kill(-cmd.Process.Pid, c.first)
		} else if err := os.WriteFile(stop, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != c.code {
			t.Errorf("%+v: exit code %d", c, code)
		}
		if <-p.ended; time.Since(start) > patience { // it lasts longer
			t.Errorf("%+v: the command lived on: %v", c, time.Since(start))
		}
	}
}
