package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/petrel-mqtt/mqtt"
)

// logFlags say what is told on standard error.
type logFlags struct {
	debug, quiet bool
	format       choice
}

func (l *logFlags) group() *group {
	g := newGroup("Logging")
	l.format = choice{"text", []string{"text", "json"}}
	g.BoolVarP(&l.debug, "debug", "d", false, "tell about every packet, on standard error")
	g.BoolVar(&l.quiet, "quiet", false, "tell nothing but the error that ends the command")
	g.Var(&l.format, "log-format", "of what is told on standard error: text or json")
	return g
}

// logger returns a logger. People at a terminal are told more than programs.
func (l *logFlags) logger(w io.Writer) (*slog.Logger, error) {
	if isTerminal(w) {
		return l.loggerFrom(slog.LevelInfo, w)
	}
	return l.loggerFrom(slog.LevelWarn, w)
}

// loggerFrom returns a logger of this level, if no flag says otherwise.
func (l *logFlags) loggerFrom(least slog.Level, w io.Writer) (*slog.Logger, error) {
	switch {
	case l.debug && l.quiet:
		return nil, usagef("--debug and --quiet contradict each other")
	case l.debug:
		least = slog.LevelDebug
	case l.quiet:
		return slog.New(slog.DiscardHandler), nil
	}
	o := &slog.HandlerOptions{Level: least}
	if l.format.word == "json" {
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return slog.New(newLines(w, o)), nil
}

// options lets the client tell what happens to its connection.
func (l *logFlags) options(o *options, logger *slog.Logger, version protocol) {
	lost := false // the hooks below run one at a time
	t := &mqtt.Trace{
		Disconnected: func(err error) {
			if !errors.Is(err, mqtt.ErrClosed) {
				lost = true
				logger.Warn("connection lost", "because", strings.TrimPrefix(plain(err), "connection lost: "))
			}
		},
		ConnectDone: func(server string, _ int, err error) {
			if err == nil && lost {
				logger.Warn("connected again", "server", server)
			}
		},
		Retrying: func(f mqtt.Failure, delay time.Duration) {
			level := slog.LevelInfo
			if refused(f.Err) {
				level = slog.LevelWarn // somebody has to do something about it
			}
			logger.Log(context.Background(), level, "trying again", "after", delay.Round(time.Millisecond), "because", plain(f.Err))
		},
		Stalled: func(_ *mqtt.Subscription, topic string, since time.Time) {
			logger.Warn("messages are not taken fast enough, and hold up the server", "topic", topic, "since", since.Format(time.TimeOnly))
		},
	}
	if l.debug {
		t.Packet = func(p mqtt.PacketTrace) { logPacket(logger, p, version) }
	}
	o.add(mqtt.WithTrace(t))
}

// refused reports whether the server does not let the client in as who it is.
func refused(err error) bool {
	return errors.Is(err, mqtt.NotAuthorized) || errors.Is(err, mqtt.BadUserNameOrPassword)
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// lines is a slog.Handler for people: time of day, level, text, and then what a TextHandler makes of the attributes.
type lines struct {
	*shared
	text slog.Handler // writes to shared.line
}

type shared struct {
	mu   sync.Mutex // guards what follows
	line bytes.Buffer
	w    io.Writer
}

func newLines(w io.Writer, o *slog.HandlerOptions) *lines {
	s := &shared{w: w}
	attributes := *o
	attributes.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey || a.Key == slog.MessageKey) {
			return slog.Attr{}
		}
		return a
	}
	return &lines{s, slog.NewTextHandler(&s.line, &attributes)}
}

func (l *lines) Enabled(ctx context.Context, level slog.Level) bool {
	return l.text.Enabled(ctx, level)
}

func (l *lines) Handle(ctx context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.line.Reset()
	l.line.WriteString(r.Time.Format("15:04:05.000 "))
	l.line.WriteString(r.Level.String())
	l.line.WriteByte(' ')
	l.line.WriteString(r.Message)
	l.line.WriteByte(' ')
	if err := l.text.Handle(ctx, r); err != nil {
		return err
	}
	line := append(bytes.TrimRight(l.line.Bytes(), " \n"), '\n')
	_, err := l.w.Write(line)
	return err
}

func (l *lines) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &lines{l.shared, l.text.WithAttrs(attrs)}
}
func (l *lines) WithGroup(name string) slog.Handler { return &lines{l.shared, l.text.WithGroup(name)} }
