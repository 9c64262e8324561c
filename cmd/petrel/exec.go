package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// execFlags say which command is run for a message.
type execFlags struct {
	command string
	workers int
	timeout seconds
}

const execHelp = `A command of --exec is run by the shell for each message, with the payload on its standard input, and MQTT_TOPIC,
MQTT_QOS, MQTT_RETAIN, MQTT_CONTENT_TYPE, MQTT_RESPONSE_TOPIC and MQTT_CORRELATION_DATA (in hexadecimal) in its environment,
from which PETREL_PASSWORD, PETREL_URL, PETREL_PROXY, PETREL_HEADER and PETREL_EXTRA_HEADERS are taken out.
Ctrl-C waits until commands that run have ended; another one kills them.`

func (e *execFlags) add(g *group) {
	g.StringVar(&e.command, "exec", "", "run this `COMMAND` for each message, with the payload on its standard input")
	g.IntVar(&e.workers, "workers", 1, "how many messages are worked on at a time, if `NUMBER` is more than 1 in any order")
	g.Var(&e.timeout, "exec-timeout", "kill a command that takes longer (default never)")
}

func (e *execFlags) check() error {
	if e.workers < 1 {
		return usagef("--workers must be at least 1")
	}
	return nil
}

// run runs the command for a message and returns what it has written. The error has the last line of its standard error.
func (e *execFlags) run(ctx context.Context, m mqtt.Message) ([]byte, error) {
	if e.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(e.timeout))
		defer cancel()
	}
	name, flag := "sh", "-c"
	if runtime.GOOS == "windows" {
		name, flag = "cmd", "/C"
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, flag, e.command)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(m.Payload), &stdout, &stderr
	cmd.WaitDelay = time.Second // for what the command leaves running with its output open
	setApart(cmd)
	cmd.Env = append(withoutSecrets(os.Environ()),
		"MQTT_TOPIC="+m.Topic,
		"MQTT_QOS="+strconv.Itoa(int(m.QoS)),
		"MQTT_RETAIN="+strconv.FormatBool(m.Retain),
		"MQTT_CONTENT_TYPE="+m.Properties.ContentType,
		"MQTT_RESPONSE_TOPIC="+m.Properties.ResponseTopic,
		"MQTT_CORRELATION_DATA="+hex.EncodeToString(m.Properties.CorrelationData),
	)
	err := underWay.run(cmd)
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // the command itself has ended well
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("killed after %v", time.Duration(e.timeout))
	}
	said := strings.TrimSpace(stderr.String())
	if err != nil && said != "" {
		err = fmt.Errorf("%w: %s", err, said[strings.LastIndexByte(said, '\n')+1:])
	}
	return stdout.Bytes(), err
}

// secret are the variables that may tell a password or a token.
var secret = []string{"PETREL_PASSWORD", "PETREL_URL", "PETREL_PROXY", "PETREL_HEADER", "PETREL_EXTRA_HEADERS"}

func withoutSecrets(environment []string) []string {
	return slices.DeleteFunc(environment, func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return slices.Contains(secret, name)
	})
}

// underWay are the commands that run, which do not hear of Ctrl-C by themselves.
var underWay = commands{running: map[*exec.Cmd]struct{}{}}

type commands struct {
	mu      sync.Mutex
	running map[*exec.Cmd]struct{}
}

func (c *commands) run(cmd *exec.Cmd) error {
	if err := c.start(cmd); err != nil {
		return err
	}
	defer c.forget(cmd)
	return cmd.Wait()
}

func (c *commands) start(cmd *exec.Cmd) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := cmd.Start()
	if err == nil {
		c.running[cmd] = struct{}{}
	}
	return err
}

func (c *commands) forget(cmd *exec.Cmd) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, cmd)
}

func (c *commands) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.running)
}

// kill kills all, with what they have started. No other begins after it: the program is about to end.
func (c *commands) kill() {
	c.mu.Lock() // and never unlocked
	for cmd := range c.running {
		cmd.Cancel()
	}
}

// sayThatWeWait tells, once ctx ends, why the program does not.
func sayThatWeWait(ctx context.Context, logger *slog.Logger) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		if n := underWay.count(); n > 0 {
			logger.Warn("waiting for commands to end; another Ctrl-C kills them", "commands", n)
		}
	})
}
