package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode"

	"github.com/petrel-mqtt/mqtt"
)

// The exit codes, as exitCodes tells them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitConnection  = 3
	exitRefused     = 4
	exitUnknown     = 5
	exitAnswer      = 6
	exitTimeout     = 7
	exitInterrupted = 130
)

const exitCodes = `Exit codes:
  0    done; also when Ctrl-C ends a command that would run for ever
  1    something else failed, and the error says what
  2    wrong flags, environment or configuration file, or a wrong file that
       these name
  3    the server was not reached, refused the connection, or the connection
       was lost for good
  4    the server refused the message, the request or the subscription
  5    a message was sent, and nobody knows whether the server took it
  6    the responder, or a command of --exec, reports a failure
  7    time was up before everything had come
  130  interrupted before the end`

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usagef is a mistake of who calls the program.
func usagef(format string, args ...any) error {
	return &exitError{exitUsage, fmt.Errorf(format, args...)}
}

func exitCode(err error) int {
	var (
		own        *exitError
		connect    *mqtt.ConnectError
		disconnect *mqtt.DisconnectError
		publish    *mqtt.PublishError
		subscribe  *mqtt.SubscribeError
		response   *mqtt.ResponseError
		topic      *mqtt.TopicError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &own):
		return own.code
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &topic):
		return exitUsage
	case errors.As(err, &response):
		return exitAnswer
	case errors.As(err, &publish), errors.As(err, &subscribe):
		return exitRefused
	case errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &connect):
		return exitTimeout
	case errors.Is(err, mqtt.ErrOutcomeUnknown):
		return exitUnknown
	case errors.As(err, &connect), errors.As(err, &disconnect), errors.Is(err, mqtt.ErrConnectionLost),
		errors.Is(err, mqtt.ErrNotConnected), errors.Is(err, mqtt.ErrClosed):
		return exitConnection
	}
	return exitFailed
}

// oneLine is an error as it is shown at the end: a line that says what to do, where that is known.
func oneLine(err error) string {
	text := plain(err)
	if a := advice(err); a != "" {
		text += "; " + a
	}
	return text
}

// plain is an error in a line.
func plain(err error) string {
	text := optionName.ReplaceAllStringFunc(err.Error(), flagOfOption)
	text = packagePrefix.ReplaceAllString(text, "")
	return strings.Join(strings.FieldsFunc(strings.TrimSpace(text), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

var (
	packagePrefix = regexp.MustCompile(`\b(mqtt|transport|codec): `)
	optionName    = regexp.MustCompile(`mqtt: With\w+:`) // the beginning of an error about an option of the client
)

// flagOfOption returns the name of the flag that sets an option: --keep-alive for WithKeepAlive, --ca-data for WithCAData.
func flagOfOption(option string) string {
	name := strings.TrimSuffix(strings.TrimPrefix(option, "mqtt: With"), ":")
	var words []string
	start := 0
	for i := 1; i < len(name); i++ {
		upper, afterUpper := unicode.IsUpper(rune(name[i])), unicode.IsUpper(rune(name[i-1]))
		beforeLower := i+1 < len(name) && unicode.IsLower(rune(name[i+1]))
		if upper && (!afterUpper || beforeLower) {
			words, start = append(words, name[start:i]), i
		}
	}
	words = append(words, name[start:])
	return "--" + string(normalise(nil, strings.ToLower(strings.Join(words, "-")))) + ":"
}
