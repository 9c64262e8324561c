package mqtt_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// prover is an Authenticator with the method "m". Its steps can be replaced. It notes its calls, and fails the test when
// two overlap.
type prover struct {
	t *testing.T

	mu       sync.Mutex // guards what is below
	start    func(context.Context) ([]byte, error)
	proceed  func(context.Context, []byte) ([]byte, error)
	finish   func(context.Context, []byte) error
	renewals []time.Duration // what RenewAfter returns, then 0
	busy     bool
	calls    []string
}

// set changes the steps.
func (p *prover) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// get reads a field.
func get[T any](p *prover, field *T) T {
	p.mu.Lock()
	defer p.mu.Unlock()
	return *field
}

// do runs one call.
func (p *prover) do(name string) (done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy {
		p.t.Errorf("%s while another call runs", name)
	}
	p.busy = true
	p.calls = append(p.calls, name)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.busy = false
	}
}

func (p *prover) Method() string { return "m" }

func (p *prover) Start(ctx context.Context) ([]byte, error) {
	defer p.do("start")()
	if f := get(p, &p.start); f != nil {
		return f(ctx)
	}
	return []byte("hello"), nil
}

func (p *prover) Continue(ctx context.Context, data []byte) ([]byte, error) {
	defer p.do("continue " + string(data))()
	if f := get(p, &p.proceed); f != nil {
		return f(ctx, data)
	}
	return append([]byte("re:"), data...), nil
}

func (p *prover) Finish(ctx context.Context, data []byte) error {
	name := "finish " + string(data)
	if data == nil {
		name = "finish nil"
	}
	defer p.do(name)()
	if f := get(p, &p.finish); f != nil {
		return f(ctx, data)
	}
	return nil
}

func (p *prover) RenewAfter() time.Duration {
	defer p.do("renew?")()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.renewals) == 0 {
		return 0
	}
	d := p.renewals[0]
	p.renewals = p.renewals[1:]
	return d
}

// taken returns the calls since the last time, except those of RenewAfter.
func (p *prover) taken() []string {
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := slices.DeleteFunc(p.calls, func(c string) bool { return c == "renew?" })
	p.calls = nil
	return calls
}

func (p *prover) wantCalls(want ...string) {
	p.t.Helper()
	if got := p.taken(); !slices.Equal(got, want) {
		p.t.Errorf("calls %q, want %q", got, want)
	}
}

// hang is a step that lasts until its ctx ends.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// step is an AUTH with the method "m".
func step(code codec.ReasonCode, data string) *codec.Auth {
	return &codec.Auth{Code: code, Method: "m", Data: []byte(data)}
}

// welcome is a CONNACK with the method "m".
func welcome(data []byte) *codec.Connack {
	return &codec.Connack{Properties: codec.ConnackProperties{AuthenticationMethod: "m", AuthenticationData: data}}
}

// wire returns packets as they are sent.
func wire(t *testing.T, packets ...codec.Packet) (b []byte) {
	for _, p := range packets {
		var err error
		b, err = p.Append(b, codec.V5)
		noErr(t, err)
	}
	return b
}

// authPeer is a client that authenticates and the scripted server that it connects to.
type authPeer struct {
	*mqtttest.Script
	t      *testing.T
	server *mqtttest.Server
	prover *prover
	client mqtt.ClientV5
}

// dialAuth makes a client that connects in the background.
func dialAuth(t *testing.T, a *prover, opts ...mqtt.OptionV5) *authPeer {
	t.Helper()
	a.t = t
	p := &authPeer{t: t, server: mqtttest.NewServer(t, codec.V5), prover: a}
	opts = append([]mqtt.OptionV5{
		mqtt.WithClientID("c"), mqtt.WithAuthenticator(a), mqtt.WithConnectInBackground(),
		mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: time.Second, MaxDelay: time.Second}),
	}, opts...)
	p.client = reconnectingV5(t, p.server.DialContext, opts...)
	return p
}

// accept takes the next CONNECT.
func (p *authPeer) accept() *codec.Connect {
	p.t.Helper()
	p.Script = p.server.Accept()
	p.Patience(5 * time.Minute) // which only a failing test waits for
	connect := mqtttest.ReceiveAs[*codec.Connect](p.Script)
	if connect.Properties.AuthenticationMethod != "m" || string(connect.Properties.AuthenticationData) != "hello" {
		p.t.Errorf("CONNECT says %q, %q", connect.Properties.AuthenticationMethod, connect.Properties.AuthenticationData)
	}
	return connect
}

// connected is dialAuth with an exchange of one step.
func connected(t *testing.T, a *prover, opts ...mqtt.OptionV5) *authPeer {
	t.Helper()
	p := dialAuth(t, a, opts...)
	p.again()
	return p
}

// again goes through the exchange of a connect, the first one or another.
func (p *authPeer) again() {
	p.t.Helper()
	p.accept()
	p.Send(welcome(nil))
	calls := p.prover.taken()
	if want := []string{"start", "finish nil"}; !slices.Equal(calls[max(0, len(calls)-2):], want) {
		p.t.Errorf("calls %q, want %q at the end", calls, want)
	}
	wantState(p.t, p.client, mqtt.StateConnected)
}

// asked is connected, with a Reauthenticate that waits for the server.
func asked(t *testing.T, a *prover, opts ...mqtt.OptionV5) (*authPeer, <-chan error) {
	t.Helper()
	p := connected(t, a, opts...)
	call := calling(func() error { return p.client.Reauthenticate(t.Context()) })
	p.Expect(step(codec.ReAuthenticate, "hello"))
	p.prover.wantCalls("start")
	return p, call
}

// An exchange of two steps before CONNACK [MQTT-4.12.0-2] [MQTT-4.12.0-3]; all data arrives, and nothing but AUTH is
// sent before CONNACK, although a message waits [MQTT-3.1.2-30].
func TestAuthenticate(t *testing.T) {
	for _, last := range []struct {
		data []byte
		call string
	}{{nil, "finish nil"}, {[]byte{}, "finish "}, {[]byte("bye"), "finish bye"}} {
		synctest.Test(t, func(t *testing.T) {
			a := &prover{}
			p := dialAuth(t, a)
			p.client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
			p.accept()
			p.Send(step(codec.ContinueAuthentication, "one"))
			p.Expect(step(codec.ContinueAuthentication, "re:one"))
			p.Send(step(codec.ContinueAuthentication, ""))
			p.Expect(step(codec.ContinueAuthentication, "re:"))
			p.ExpectSilence(time.Second)
			p.Send(welcome(last.data))
			p.Expect(toT(1, 1, ""))
			a.wantCalls("start", "continue one", "continue ", last.call)
			ack := p.client.ConnAck()
			p.Send(&codec.Puback{PacketID: 1}, toT(0, 0, "overwrites the read buffer"))
			synctest.Wait()
			if ack.AuthenticationMethod != "m" || !bytes.Equal(ack.AuthenticationData, last.data) {
				t.Errorf("ConnAck says %q, %q", ack.AuthenticationMethod, ack.AuthenticationData)
			}
		})
	}
}

// What a server must not do before CONNACK, with an Authenticator of method "m": the client says why and closes.
var badHandshakes = []struct {
	name  string
	bytes string
	code  codec.ReasonCode
	rule  string
}{
	{"AUTH with another method", "\xf0\x06\x18\x04\x15\x00\x01x", codec.ProtocolError, "MQTT-4.12.0-5"},
	{"AUTH without method", "\xf0\x02\x18\x00", codec.ProtocolError, "3.15.2.2.2"},
	{"empty AUTH", "\xf0\x00", codec.ProtocolError, "MQTT-4.12.0-5"},
	{"AUTH with success", "\xf0\x06\x00\x04\x15\x00\x01m", codec.ProtocolError, "MQTT-4.12.0-2"},
	{"AUTH that re-authenticates", "\xf0\x06\x19\x04\x15\x00\x01m", codec.ProtocolError, "MQTT-3.15.2-1"},
	{"AUTH with a reason code that is none", "\xf0\x06\x87\x04\x15\x00\x01m", codec.ProtocolError, "MQTT-3.15.2-1"},
	{"AUTH with flags", "\xf1\x06\x18\x04\x15\x00\x01m", codec.MalformedPacket, "MQTT-2.1.3-1"},
	{"AUTH with the method twice", "\xf0\x0a\x18\x08\x15\x00\x01m\x15\x00\x01m", codec.ProtocolError, "3.1.2.11.9"},
	{"CONNACK with another method", "\x20\x07\x00\x00\x04\x15\x00\x01x", codec.ProtocolError, "MQTT-4.12.0-5"},
	{"CONNACK without method", "\x20\x03\x00\x00\x00", codec.ProtocolError, "MQTT-4.12.0-5"},
	{"DISCONNECT", "\xe0\x01\x87", codec.ProtocolError, "MQTT-3.2.0-1"},
	{"PINGRESP", "\xd0\x00", codec.ProtocolError, "MQTT-3.2.0-1"},
}

// [MQTT-4.12.0-2] [MQTT-4.12.0-5] [MQTT-3.15.2-1] [MQTT-3.2.0-1]
func TestBadHandshake(t *testing.T) {
	for _, c := range badHandshakes {
		for _, steps := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s/%d", c.name, steps), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := dialAuth(t, &prover{}, mqtt.WithoutReconnect())
					p.accept()
					for range steps {
						p.Send(step(codec.ContinueAuthentication, "one"))
						p.Expect(step(codec.ContinueAuthentication, "re:one"))
					}
					p.SendBytes([]byte(c.bytes)...)
					p.Expect(&codec.Disconnect{Code: c.code})
					p.ExpectEOF()
					wantEnd(t, p.client, mqtt.ReasonCode(c.code))
					var connect *mqtt.ConnectError
					var packet *mqtt.PacketError
					if err := p.client.Err(); !errors.As(err, &connect) || !errors.As(err, &packet) || packet.Rule != c.rule {
						t.Errorf("the client ends with %v (%+v)", err, packet)
					}
				})
			})
		}
	}
}

// AUTH may have neither a Reason String nor user properties when the client asked for none [MQTT-3.1.2-29].
func TestAuthWithoutProblemInformation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dialAuth(t, &prover{}, mqtt.WithoutReconnect(), mqtt.WithoutProblemInformation())
		p.accept()
		p.Send(&codec.Auth{Code: codec.ContinueAuthentication, Method: "m", ReasonString: "why"})
		p.Expect(&codec.Disconnect{Code: codec.ProtocolError})
		wantEnd(t, p.client, mqtt.ProtocolError)
	})
}

// Without an Authenticator a server must speak of authentication neither in AUTH nor in CONNACK [MQTT-4.12.0-6], and the
// client sends no AUTH [MQTT-4.12.0-7].
func TestNoAuthenticator(t *testing.T) {
	for _, bad := range []codec.Packet{step(codec.ContinueAuthentication, ""), welcome(nil)} {
		synctest.Test(t, func(t *testing.T) {
			server := mqtttest.NewServer(t, codec.V5)
			call := calling(func() error {
				_, err := mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithDialer(server.DialContext))
				return err
			})
			s := server.Accept()
			mqtttest.ReceiveAs[*codec.Connect](s)
			s.Send(bad)
			s.Expect(&codec.Disconnect{Code: codec.ProtocolError})
			s.ExpectEOF()
			var packet *mqtt.PacketError
			if err := outcome(t, call); !errors.As(err, &packet) || packet.Rule != "MQTT-4.12.0-6" {
				t.Errorf("after %+v: %v", bad, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		p := startPeer(t, codec.V5, nil)
		if err := p.v5.Reauthenticate(t.Context()); err == nil || !strings.Contains(err.Error(), "no Authenticator") {
			t.Errorf("Reauthenticate: %v", err)
		}
		p.ExpectSilence(time.Second)
	})
}

func TestWithAuthenticatorIsChecked(t *testing.T) {
	for name, a := range map[string]mqtt.Authenticator{
		"nil": nil, "no Authentication Method": nameless{}, "UTF-8": nameless{name: "\xff"},
	} {
		_, err := mqtt.NewClient(t.Context(), "mqtt://test", mqtt.WithAuthenticator(a))
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type nameless struct {
	mqtt.Authenticator
	name string
}

func (n nameless) Method() string { return n.name }

var errNo = errors.New("no")

// failing makes a prover whose step fails with errNo, or hangs until its ctx ends.
func failing(which string, hangs bool) *prover {
	fail := func(ctx context.Context) error {
		if hangs {
			return hang(ctx)
		}
		return errNo
	}
	switch a := (&prover{}); which {
	case "Start":
		a.start = func(ctx context.Context) ([]byte, error) { return nil, fail(ctx) }
		return a
	case "Continue":
		a.proceed = func(ctx context.Context, _ []byte) ([]byte, error) { return nil, fail(ctx) }
		return a
	default:
		a.finish = func(ctx context.Context, _ []byte) error { return fail(ctx) }
		return a
	}
}

// failOnce makes the next Start, and the next Finish, do what f's do, and every Continue.
func (p *prover) failOnce(f *prover) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proceed = f.proceed
	if f.start != nil {
		p.start = func(ctx context.Context) ([]byte, error) {
			p.set(func() { p.start = nil })
			return f.start(ctx)
		}
	}
	if f.finish != nil {
		p.finish = func(ctx context.Context, data []byte) error {
			p.set(func() { p.finish = nil })
			return f.finish(ctx, data)
		}
	}
}

// An error of the Authenticator is a failed attempt, of a type that says which step it was. The server learns it, and the
// connection is closed.
func TestAuthenticatorFails(t *testing.T) {
	for _, which := range []string{"Start", "Continue", "Finish"} {
		t.Run(which, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := failing(which, false)
				var decided failures
				p := dialAuth(t, a, mqtt.WithReconnect(mqtt.ReconnectPolicy{MaxAttempts: 2, Decide: decided.decide}))
				for range 2 {
					if which == "Start" {
						break
					}
					p.accept()
					if which == "Continue" {
						p.Send(step(codec.ContinueAuthentication, "one"))
					} else {
						p.Send(welcome(nil))
					}
					p.Expect(&codec.Disconnect{Code: codec.UnspecifiedError}) // [MQTT-4.12.0-4] and section 4.13
					p.ExpectEOF()
				}
				wantEnd(t, p.client, errNo)
				var connect *mqtt.ConnectError
				var failed *mqtt.AuthError
				err := p.client.Err()
				if !errors.As(err, &connect) || !errors.As(err, &failed) || failed.Step != which || failed.Method != "m" || connect.Code != 0 {
					t.Errorf("the client ends with %#v", err)
				}
				if want := "mqtt: authentication by m: " + which + ": no"; failed.Error() != want {
					t.Errorf("error %q, want %q", failed, want)
				}
				if list := decided.take(); len(list) != 1 || list[0].Permanent {
					t.Errorf("Decide was asked %+v", list)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		final := &mqtt.DisconnectError{ByServer: true, Refusal: mqtt.Refusal{Code: mqtt.UseAnotherServer}, Err: errNo} // somebody else's
		p := dialAuth(t, &prover{start: func(context.Context) ([]byte, error) { return nil, mqtt.Permanent(final) }})
		wantEnd(t, p.client, errNo)
		p.prover.wantCalls("start")
	})
}

// One deadline is for the whole connect, whoever is slow.
func TestAuthenticationTimesOut(t *testing.T) {
	for _, slow := range []string{"Start", "Continue", "Finish", ""} {
		t.Run("slow "+slow, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &prover{}
				if slow != "" {
					a = failing(slow, true)
				}
				began := time.Now()
				p := dialAuth(t, a, mqtt.WithoutReconnect(), mqtt.WithConnectTimeout(5*time.Second))
				if slow != "Start" {
					p.accept()
					for range 3 {
						time.Sleep(time.Second)
						if slow == "Finish" {
							p.Send(welcome(nil))
							break
						}
						p.Send(step(codec.ContinueAuthentication, "one"))
						if slow == "Continue" {
							break
						}
						p.Expect(step(codec.ContinueAuthentication, "re:one"))
					}
				}
				wantEnd(t, p.client, context.DeadlineExceeded)
				if d := time.Since(began); d != 5*time.Second {
					t.Errorf("it took %v", d)
				}
				var failed *mqtt.AuthError
				if err := p.client.Err(); errors.As(err, &failed) != (slow != "") || failed != nil && failed.Step != slow {
					t.Errorf("the client ends with %v", err)
				}
			})
		})
	}
}

// Each attempt has an exchange of its own: after a refusal that fresh data may mend, after a redirect, after a cut. A
// method that the server does not know ends the client [MQTT-4.12.0-1].
func TestExchangePerAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dialAuth(t, &prover{})
		for _, code := range []codec.ReasonCode{codec.NotAuthorized, codec.BadUserNameOrPassword, codec.ServerBusy} {
			p.accept()
			p.Send(step(codec.ContinueAuthentication, "one"))
			p.Expect(step(codec.ContinueAuthentication, "re:one"))
			p.Send(&codec.Connack{Code: code}) // [MQTT-4.12.0-4]: the server refuses
			p.ExpectEOF()
			p.prover.wantCalls("start", "continue one")
		}
		p.accept()
		p.Send(&codec.Connack{Code: codec.UseAnotherServer, Properties: codec.ConnackProperties{ServerReference: "other"}})
		p.accept()
		p.Send(welcome(nil))
		p.prover.wantCalls("start", "start", "finish nil")
		for range 2 {
			p.Cut()
			p.again()
		}
		p.Cut()
		p.accept()
		p.Send(&codec.Connack{Code: codec.BadAuthenticationMethod, Properties: codec.ConnackProperties{ReasonString: "why"}})
		wantEnd(t, p.client, mqtt.BadAuthenticationMethod)
		var connect *mqtt.ConnectError
		if err := p.client.Err(); !errors.As(err, &connect) || connect.Reason != "why" {
			t.Errorf("the client ends with %v", err)
		}
	})
}

// Close during the exchange of a connect ends it at once.
func TestCloseDuringAuthentication(t *testing.T) {
	for _, which := range []string{"Start", "Continue", "Finish", ""} {
		synctest.Test(t, func(t *testing.T) {
			a := &prover{}
			if which != "" {
				a = failing(which, true)
			}
			p := dialAuth(t, a)
			if which != "Start" {
				p.accept()
			}
			switch which {
			case "Continue":
				p.Send(step(codec.ContinueAuthentication, ""))
			case "Finish":
				p.Send(welcome(nil))
			}
			synctest.Wait()
			began := time.Now()
			noErr(t, p.client.Close())
			wantEnd(t, p.client, mqtt.ErrClosed)
			if d := time.Since(began); d != 0 {
				t.Errorf("Close took %v", d)
			}
		})
	}
}

// A connection that is cut after any byte of an exchange is an error of the call, and nothing worse.
func TestAuthenticationCutAnywhere(t *testing.T) {
	hello := wire(t, step(codec.ContinueAuthentication, "one"), welcome([]byte("bye")))
	for n := range len(hello) {
		synctest.Test(t, func(t *testing.T) {
			p := dialAuth(t, &prover{})
			p.accept()
			p.SendBytes(hello[:n]...)
			synctest.Wait()
			p.Cut()
			p.again()
		})
	}
	once := wire(t, step(codec.ContinueAuthentication, "one"))
	all := append(once, wire(t, step(codec.Success, "bye"))...)
	for n := range len(all) {
		synctest.Test(t, func(t *testing.T) {
			p, call := asked(t, &prover{})
			p.SendBytes(all[:min(n, len(once))]...)
			if n >= len(once) {
				p.Expect(step(codec.ContinueAuthentication, "re:one"))
				p.SendBytes(all[len(once):n]...)
			}
			synctest.Wait()
			p.Cut()
			wantErr(t, outcome(t, call), mqtt.ErrConnectionLost, false)
			p.again()
		})
	}
}

// talker is a PropertiesAuthenticator.
type talker struct {
	*prover
	sending  mqtt.AuthProperties
	received []mqtt.AuthProperties
}

func (a *talker) Sending() mqtt.AuthProperties {
	defer a.do("sending")()
	return a.sending
}

func (a *talker) Received(p mqtt.AuthProperties) {
	defer a.do("received")()
	a.received = append(a.received, p)
}

// Reason String and user properties of AUTH in both directions, in order and with repeats; those of CONNACK too.
func TestAuthProperties(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours := mqtt.UserProperties{{Key: "b", Value: "1"}, {Key: "a", Value: "2"}, {Key: "b", Value: "3"}}
		theirs := mqtt.UserProperties{{Key: "z", Value: "1"}, {Key: "y", Value: "2"}, {Key: "z", Value: "1"}}
		a := &talker{prover: &prover{t: t}, sending: mqtt.AuthProperties{ReasonString: "because", UserProperties: ours}}
		p := dialAuth(t, a.prover, mqtt.WithAuthenticator(a), mqtt.WithUserProperties(mqtt.UserProperty{Key: "c"}))
		want := append(codec.UserProperties{{Key: "c"}}, ours...)
		if got := p.accept().Properties.UserProperties; !slices.Equal(got, want) {
			t.Errorf("CONNECT has %v", got)
		}
		talk := func(code codec.ReasonCode, data string, reason string, u mqtt.UserProperties) *codec.Auth {
			return &codec.Auth{Code: code, Method: "m", Data: []byte(data), ReasonString: reason, UserProperties: u}
		}
		p.Send(talk(codec.ContinueAuthentication, "one", "first", theirs))
		p.Expect(talk(codec.ContinueAuthentication, "re:one", "because", ours))
		ack := welcome(nil)
		ack.Properties.ReasonString, ack.Properties.UserProperties = "second", theirs
		ack.Properties.MaximumPacketSize = 30
		p.Send(ack)
		a.wantCalls("start", "sending", "received", "continue one", "sending", "received", "finish nil")

		// What does not fit is left out [MQTT-3.15.2-2] [MQTT-3.15.2-3].
		call := calling(func() error { return p.client.Reauthenticate(t.Context()) })
		p.Expect(step(codec.ReAuthenticate, "hello"))
		p.Send(talk(codec.Success, "", "third", nil))
		noErr(t, outcome(t, call))
		heard := []mqtt.AuthProperties{{ReasonString: "first", UserProperties: theirs}, {ReasonString: "second", UserProperties: theirs}, {ReasonString: "third"}}
		if !reflect.DeepEqual(a.received, heard) {
			t.Errorf("received %+v", a.received)
		}

		// What is too large without them is not sent [MQTT-3.2.2-15].
		long := make([]byte, 30)
		a.failOnce(&prover{start: func(context.Context) ([]byte, error) { return long, nil }})
		wantErr(t, p.client.Reauthenticate(t.Context()), mqtt.PacketTooLarge, false)
		p.ExpectSilence(time.Second)
		a.failOnce(&prover{proceed: func(context.Context, []byte) ([]byte, error) { return long, nil }})
		call = calling(func() error { return p.client.Reauthenticate(t.Context()) })
		p.Expect(step(codec.ReAuthenticate, "hello"))
		p.Send(step(codec.ContinueAuthentication, ""))
		p.Expect(&codec.Disconnect{Code: codec.UnspecifiedError})
		wantErr(t, outcome(t, call), mqtt.PacketTooLarge, false)
	})
}

// Data that no packet can hold is the Authenticator's mistake, not the server's.
func TestAuthenticationDataTooLong(t *testing.T) {
	long := make([]byte, 1<<16)
	synctest.Test(t, func(t *testing.T) {
		p := dialAuth(t, &prover{proceed: func(context.Context, []byte) ([]byte, error) { return long, nil }}, mqtt.WithoutReconnect())
		p.accept()
		p.Send(step(codec.ContinueAuthentication, ""))
		p.Expect(&codec.Disconnect{Code: codec.UnspecifiedError})
		<-p.client.Done()
		var failed *mqtt.AuthError
		var packet *mqtt.PacketError
		if err := p.client.Err(); !errors.As(err, &failed) || errors.As(err, &packet) {
			t.Errorf("the client ends with %v", err)
		}
	})
}

// The server's data belongs to the Authenticator, which may wipe it; ConnAck has its own.
func TestAuthenticationDataIsTheAuthenticators(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &prover{finish: func(_ context.Context, data []byte) error {
			clear(data)
			return nil
		}}
		p := dialAuth(t, a)
		p.accept()
		p.Send(welcome([]byte("proof")))
		noErr(t, p.client.WaitConnected(t.Context()))
		if got := p.client.ConnAck().AuthenticationData; string(got) != "proof" {
			t.Errorf("ConnAck has %q", got)
		}
	})
}
