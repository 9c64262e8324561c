// Package scram authenticates an MQTT 5 client by SCRAM (RFC 5802, RFC 7677), with a user name and a password that the
// server never gets to see. Each side proves to the other that it knows the password, or what was derived from it: a
// server that cannot is refused.
//
//	client, err := mqtt.NewClient(ctx, "mqtts://broker.example.com",
//		mqtt.WithAuthenticator(scram.SHA256("billing", password)))
//
// Use it over TLS all the same: SCRAM protects the password, not the messages, and there is no channel binding.
package scram

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/xdg-go/scram"

	"github.com/petrel-mqtt/mqtt"
)

// maxIterations bounds the work that a server may ask for: some seconds of one processor. Servers ask for 4,096 to
// 600,000; fewer than 4,096 are refused.
const maxIterations = 5_000_000

// SHA256 authenticates with the method SCRAM-SHA-256, at every connect and every re-authentication. User name and password
// may have any characters that SASLprep (RFC 4013) allows. The Authenticator serves one client; printing it shows no
// password.
//
// A server that cannot prove that it knows the user is a failed attempt to connect, and a failed re-authentication ends
// the connection: the error is a *mqtt.AuthError. A wrong password is the server's refusal, which does not end a client
// that has been connected before.
func SHA256(username, password string) mqtt.Authenticator {
	return newAuthenticator("SCRAM-SHA-256", scram.SHA256, username, password)
}

// SHA512 authenticates with the method SCRAM-SHA-512, as SHA256 does with its own.
func SHA512(username, password string) mqtt.Authenticator {
	return newAuthenticator("SCRAM-SHA-512", scram.SHA512, username, password)
}

// authenticator is an mqtt.Authenticator. Its calls do not overlap, which is promised there.
type authenticator struct {
	method       string
	client       *scram.Client // it has the password
	err          error         // why there is no client
	conversation *scram.ClientConversation
}

func newAuthenticator(method string, hash scram.HashGeneratorFcn, username, password string) *authenticator {
	client, err := hash.NewClient(username, password, "")
	if err != nil {
		// The cause may quote what it is about.
		err = errors.New("scram: SASLprep (RFC 4013) forbids the user name or the password")
	}
	return &authenticator{method: method, client: client, err: err}
}

// Format prints the method alone, whatever the verb.
func (a *authenticator) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, a.method) }

func (a *authenticator) Method() string { return a.method }

// Start begins a new conversation.
func (a *authenticator) Start(context.Context) ([]byte, error) {
	if a.err != nil {
		return nil, mqtt.Permanent(a.err)
	}
	a.conversation = a.client.NewConversation()
	return a.step("")
}

// Continue answers the server's first message with the proof.
func (a *authenticator) Continue(_ context.Context, data []byte) ([]byte, error) {
	return a.step(string(data))
}

// Finish checks the server's signature, which comes with its success.
func (a *authenticator) Finish(_ context.Context, data []byte) error {
	if data == nil {
		return errors.New("scram: the server has sent no signature")
	}
	if _, err := a.step(string(data)); err != nil {
		return err
	}
	if !a.conversation.Valid() {
		return errors.New("scram: the server says success before it has proved anything")
	}
	return nil
}

func (a *authenticator) step(challenge string) ([]byte, error) {
	if err := checkIterations(challenge); err != nil {
		return nil, err
	}
	response, err := a.conversation.Step(challenge)
	if err != nil {
		return nil, fmt.Errorf("scram: %w", err)
	}
	return []byte(response), nil
}

// checkIterations refuses a server that would keep us busy for ever.
func checkIterations(message string) error {
	for field := range strings.SplitSeq(message, ",") {
		count, ok := strings.CutPrefix(field, "i=")
		if n, err := strconv.Atoi(count); ok && err == nil && n > maxIterations {
			return fmt.Errorf("scram: the server asks for %d iterations, more than %d", n, maxIterations)
		}
	}
	return nil
}
