package scram

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/xdg-go/scram"

	"github.com/petrel-mqtt/mqtt"
)

var methods = []struct {
	name string
	hash scram.HashGeneratorFcn
	new  func(username, password string) mqtt.Authenticator
}{
	{"SCRAM-SHA-256", scram.SHA256, SHA256},
	{"SCRAM-SHA-512", scram.SHA512, SHA512},
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func connect(ctx context.Context, b *broker, a mqtt.Authenticator) (mqtt.ClientV5, error) {
	return mqtt.NewClient(ctx, b.url, mqtt.WithAuthenticator(a), mqtt.WithClientID("ada"),
		mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: time.Millisecond, MaxDelay: 10 * time.Millisecond}))
}

// roundTrip shows that the connection works.
func roundTrip(t *testing.T, ctx context.Context, c mqtt.ClientV5, sub *mqtt.Subscription, payload string) {
	t.Helper()
	check(t, c.Publish(ctx, "t", []byte(payload), mqtt.AtLeastOnce))
	m, err := sub.Next(ctx)
	check(t, err)
	if string(m.Payload) != payload {
		t.Fatalf("got %q, want %q", m.Payload, payload)
	}
}

// Against a real broker, with a real SCRAM server: connect, re-authenticate, connect again.
func TestSCRAM(t *testing.T) {
	for _, m := range methods {
		t.Run(m.name, func(t *testing.T) {
			b := startBroker(t, m.name, m.hash)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			c, err := connect(ctx, b, m.new("ada", "pencil"))
			check(t, err)
			defer c.Close()
			sub, err := c.Subscribe(ctx, "t", mqtt.AtLeastOnce)
			check(t, err)
			roundTrip(t, ctx, c, sub, "connected")
			for range 3 {
				check(t, c.Reauthenticate(ctx))
				roundTrip(t, ctx, c, sub, "re-authenticated")
			}
			check(t, c.Reconnect(ctx))
			roundTrip(t, ctx, c, sub, "reconnected")
			if ack := c.ConnAck(); ack.AuthenticationMethod != m.name || !bytes.HasPrefix(ack.AuthenticationData, []byte("v=")) {
				t.Errorf("ConnAck says %q, %q", ack.AuthenticationMethod, ack.AuthenticationData)
			}
			if b.set(func() {}); b.successes != 5 {
				t.Errorf("%d exchanges, want 5", b.successes)
			}
		})
	}
}

// The server refuses who does not know the password, or is nobody.
func TestWrongPassword(t *testing.T) {
	for _, m := range methods {
		b := startBroker(t, m.name, m.hash)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for _, who := range [][2]string{{"ada", "ink"}, {"bob", "pencil"}} {
			_, err := connect(ctx, b, m.new(who[0], who[1]))
			var refused *mqtt.ConnectError
			if !errors.As(err, &refused) || !errors.Is(err, mqtt.BadUserNameOrPassword) || strings.Contains(err.Error(), who[1]) {
				t.Errorf("%v: %v", who, err)
			}
		}
	}
}

// The password is changed at the server: the re-authentication is refused, and so are the connects that follow, until
// the password is the client's again.
func TestPasswordChanged(t *testing.T) {
	b := startBroker(t, "SCRAM-SHA-256", scram.SHA256)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := connect(ctx, b, SHA256("ada", "pencil"))
	check(t, err)
	defer c.Close()
	b.set(func() { b.password = "ink" })
	err = c.Reauthenticate(ctx)
	var failed *mqtt.AuthError
	var by *mqtt.DisconnectError
	if !errors.As(err, &failed) || !errors.As(err, &by) || !by.ByServer || !errors.Is(err, mqtt.NotAuthorized) {
		t.Errorf("Reauthenticate: %v", err)
	}
	if err := c.Reconnect(ctx); !errors.Is(err, mqtt.BadUserNameOrPassword) {
		t.Errorf("Reconnect: %v", err)
	}
	b.set(func() { b.password = "pencil" })
	check(t, c.WaitConnected(ctx))
	check(t, c.Reauthenticate(ctx))
}

// A server that does not know the password, or does not show that it does, is refused.
func TestWrongSignature(t *testing.T) {
	for name, spoil := range map[string]func([]byte) []byte{
		"wrong":      func([]byte) []byte { return []byte("v=d3Jvbmc=") },
		"bit":        func(final []byte) []byte { final[5] ^= 1; return final },
		"none":       func([]byte) []byte { return nil },
		"an error":   func([]byte) []byte { return []byte("e=other-error") },
		"no message": func([]byte) []byte { return []byte("x") },
	} {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t, "SCRAM-SHA-512", scram.SHA512)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			b.set(func() { b.spoil = spoil })
			_, err := connect(ctx, b, SHA512("ada", "pencil"))
			var refused *mqtt.ConnectError
			wantFinish(t, err)
			if !errors.As(err, &refused) || refused.Code != 0 {
				t.Errorf("connecting: %v", err)
			}
			b.set(func() { b.spoil = nil })
			c, err := connect(ctx, b, SHA512("ada", "pencil"))
			check(t, err)
			defer c.Close()
			b.set(func() { b.spoil = spoil })
			wantFinish(t, c.Reauthenticate(ctx))
			b.set(func() { b.spoil = nil })
			sub, err := c.Subscribe(ctx, "t", mqtt.AtLeastOnce) // after the reconnect
			check(t, err)
			roundTrip(t, ctx, c, sub, "again")
		})
	}
}

func wantFinish(t *testing.T, err error) {
	t.Helper()
	var failed *mqtt.AuthError
	if !errors.As(err, &failed) || failed.Step != "Finish" || !strings.Contains(err.Error(), "scram: ") {
		t.Errorf("error %v, want one of Finish", err)
	}
}

// What a server that is not one might say.
func TestHostileServer(t *testing.T) {
	ctx := t.Context()
	begin := func(t *testing.T) (a mqtt.Authenticator, nonce string) {
		a = SHA256("ada", "pencil")
		first, err := a.Start(ctx)
		check(t, err)
		_, nonce, ok := strings.Cut(string(first), ",r=")
		if !ok || !strings.HasPrefix(string(first), "n,,n=ada,") {
			t.Fatalf("first message %q", first)
		}
		return a, nonce
	}
	for _, c := range []struct{ name, first, want string }{
		{"another nonce", "r=other,s=c2FsdA==,i=4096", "nonce"},
		{"few iterations", "r=%s1,s=c2FsdA==,i=4095", "too few iterations"},
		{"many iterations", "r=%s1,s=c2FsdA==,i=5000001", "5000001 iterations"},
		{"more than fit", "r=%s1,s=c2FsdA==,i=99999999999999999999", "scram: "},
		{"nothing", "", "scram: "},
		{"extension", "m=x,r=%s1,s=c2FsdA==,i=4096", "not supported"},
	} {
		a, nonce := begin(t)
		first := strings.Replace(c.first, "%s", nonce, 1)
		if _, err := a.Continue(ctx, []byte(first)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		a, nonce = begin(t)
		first = strings.Replace(c.first, "%s", nonce, 1)
		if err := a.Finish(ctx, []byte(first)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s, with success: %v", c.name, err)
		}
	}
	a, nonce := begin(t)
	if err := a.Finish(ctx, []byte("r="+nonce+"1,s=c2FsdA==,i=4096")); err == nil {
		t.Error("success before any proof was believed")
	}
	a, _ = begin(t)
	if err := a.Finish(ctx, nil); err == nil || !strings.Contains(err.Error(), "no signature") {
		t.Errorf("success without any data: %v", err)
	}
	_, again := begin(t)
	if again == nonce {
		t.Error("two conversations have the same nonce")
	}
}

// RFC 7677's example, with the nonces that it has.
func TestRFC7677(t *testing.T) {
	a := newAuthenticator("SCRAM-SHA-256", scram.SHA256, "user", "pencil")
	a.client.WithNonceGenerator(func() string { return "rOprNGfwEbeRWgbNEkqO" })
	first, err := a.Start(t.Context())
	check(t, err)
	const server = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	final, err := a.Continue(t.Context(), []byte(server))
	check(t, err)
	if got, want := string(first)+" "+string(final), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO "+
		"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	check(t, a.Finish(t.Context(), []byte("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")))
}

// A password that SASLprep forbids cannot get better: the client does not even dial, and says nothing of it.
func TestForbiddenPassword(t *testing.T) {
	_, err := mqtt.NewClient(t.Context(), "mqtt://127.0.0.1:1", mqtt.WithConnectRetry(),
		mqtt.WithAuthenticator(SHA256("ada", "geheim\u0007nis")))
	var failed *mqtt.AuthError
	if !errors.As(err, &failed) || failed.Step != "Start" || !strings.Contains(err.Error(), "SASLprep") || strings.Contains(err.Error(), "geheim") {
		t.Errorf("connecting: %v", err)
	}
}

// No way of printing shows the password.
func TestPrinting(t *testing.T) {
	a := SHA256("ada", "pencil")
	_, err := a.Start(t.Context())
	check(t, err)
	holder := struct{ A mqtt.Authenticator }{a}
	hidden := struct{ a mqtt.Authenticator }{a}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		for _, v := range []any{a, holder, &holder, hidden, &hidden, []mqtt.Authenticator{a}} {
			got := fmt.Sprintf(verb, v)
			if strings.Contains(got, "pencil") || strings.Contains(got, "70656e63696c") {
				t.Errorf("%s of %T prints %s", verb, v, got)
			}
		}
	}
	if got := fmt.Sprint(a); got != "SCRAM-SHA-256" {
		t.Errorf("it prints %q", got)
	}
}
