package mqtt_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// The Authenticator runs anew on the live connection [MQTT-4.12.1-1], and publishing goes on meanwhile.
func TestReauthenticate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, first := asked(t, &prover{})
		second := calling(func() error { return p.client.Reauthenticate(t.Context()) })
		brief := calling(func() error { return p.client.Reauthenticate(endingIn(t, time.Second)) })
		publish := calling(func() error { return p.client.Publish(t.Context(), "t", nil, mqtt.AtLeastOnce) })
		p.Expect(toT(1, 1, ""))
		p.Send(&codec.Puback{PacketID: 1}, step(codec.ContinueAuthentication, "one"))
		noErr(t, outcome(t, publish))
		p.Expect(step(codec.ContinueAuthentication, "re:one"))
		p.ExpectSilence(2 * time.Second)
		wantErr(t, outcome(t, brief), context.DeadlineExceeded, false)
		stillWaits(t, first)
		p.Send(step(codec.Success, "bye"))
		noErr(t, outcome(t, first))
		noErr(t, outcome(t, second))
		p.prover.wantCalls("continue one", "finish bye")

		third := calling(func() error { return p.client.Reauthenticate(t.Context()) })
		p.Expect(step(codec.ReAuthenticate, "hello"))
		p.Send(&codec.Auth{Method: "m"})
		noErr(t, outcome(t, third))
		p.prover.wantCalls("start", "finish nil")
		noErr(t, p.client.Close())
		p.Expect(&codec.Disconnect{SessionExpiry: new(uint32)})
		wantErr(t, p.client.Reauthenticate(t.Context()), mqtt.ErrClosed, true)
	})
}

// A re-authentication that fails ends the connection [MQTT-4.12.1-2], whoever is to blame, be it for another method
// [MQTT-4.12.0-5] or for beginning one itself [MQTT-3.15.2-1]; those who wait learn why, and the client connects again,
// with a fresh exchange.
func TestReauthenticateFails(t *testing.T) {
	refused := &codec.Disconnect{Code: codec.NotAuthorized, ReasonString: "why"}
	for name, c := range map[string]struct {
		prover *prover
		send   []codec.Packet
		bytes  string
		says   codec.ReasonCode // 0: the client has nothing to say
		want   error
		step   string
	}{
		"refused":              {send: []codec.Packet{refused}, want: mqtt.NotAuthorized},
		"refused after a step": {send: []codec.Packet{step(codec.ContinueAuthentication, ""), refused}, want: mqtt.NotAuthorized},
		"refused at the end": {
			prover: failing("Finish", true), send: []codec.Packet{step(codec.Success, ""), refused}, want: mqtt.NotAuthorized,
		},
		"Continue fails": {
			prover: failing("Continue", false), send: []codec.Packet{step(codec.ContinueAuthentication, "")},
			says: codec.UnspecifiedError, want: errNo, step: "Continue",
		},
		"Finish fails": {
			prover: failing("Finish", false), send: []codec.Packet{step(codec.Success, "")},
			says: codec.UnspecifiedError, want: errNo, step: "Finish",
		},
		"Continue hangs": {
			prover: failing("Continue", true), send: []codec.Packet{step(codec.ContinueAuthentication, "")},
			says: codec.UnspecifiedError, want: context.DeadlineExceeded, step: "Continue",
		},
		"no answer":              {says: codec.UnspecifiedError, want: context.DeadlineExceeded},
		"another method":         {bytes: "\xf0\x06\x18\x04\x15\x00\x01x", says: codec.ProtocolError, want: mqtt.ProtocolError},
		"success without method": {bytes: "\xf0\x00", says: codec.ProtocolError, want: mqtt.ProtocolError},
		"the server begins":      {bytes: "\xf0\x06\x19\x04\x15\x00\x01m", says: codec.ProtocolError, want: mqtt.ProtocolError},
		"malformed":              {bytes: "\xf1\x06\x18\x04\x15\x00\x01m", says: codec.MalformedPacket, want: mqtt.MalformedPacket},
		"two answers": {
			prover: failing("Continue", true), says: codec.ProtocolError, want: mqtt.ProtocolError,
			send: []codec.Packet{step(codec.ContinueAuthentication, ""), step(codec.ContinueAuthentication, "")},
		},
		"answer after success": {
			prover: failing("Finish", true), says: codec.ProtocolError, want: mqtt.ProtocolError,
			send: []codec.Packet{step(codec.Success, ""), step(codec.Success, "")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &prover{}
				p := connected(t, a)
				if c.prover != nil {
					a.failOnce(c.prover)
				}
				call := calling(func() error { return p.client.Reauthenticate(t.Context()) })
				p.Expect(step(codec.ReAuthenticate, "hello"))
				p.SendBytes(append(wire(t, c.send...), c.bytes...)...)
				if c.says != 0 {
					for got := p.Receive(); ; got = p.Receive() {
						if d, ok := got.(*codec.Disconnect); ok {
							if d.Code != c.says {
								t.Errorf("DISCONNECT says %v, want %v", d.Code, c.says)
							}
							break
						}
					}
				}
				err := outcome(t, call)
				p.Close()
				var failed *mqtt.AuthError
				if !errors.Is(err, c.want) || !errors.As(err, &failed) || failed.Step != c.step || failed.Method != "m" {
					t.Errorf("Reauthenticate: %v", err)
				}
				var by *mqtt.DisconnectError
				if c.want == mqtt.NotAuthorized && (!errors.As(err, &by) || !by.ByServer || by.Reason != "why") {
					t.Errorf("Reauthenticate: %v", err)
				}
				p.again()
			})
		})
	}
}

// AUTH that answers nothing is a protocol error [4.12.1].
func TestUnaskedAuth(t *testing.T) {
	for _, code := range []codec.ReasonCode{codec.Success, codec.ContinueAuthentication, codec.ReAuthenticate} {
		synctest.Test(t, func(t *testing.T) {
			p := connected(t, &prover{})
			p.Send(step(code, ""))
			p.Expect(&codec.Disconnect{Code: codec.ProtocolError})
			p.ExpectEOF()
			p.again()
		})
	}
}

// A failing Start has sent nothing, so the connection stays.
func TestReauthenticateDoesNotStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &prover{}
		p := connected(t, a)
		a.failOnce(failing("Start", false))
		err := p.client.Reauthenticate(t.Context())
		var failed *mqtt.AuthError
		if !errors.Is(err, errNo) || !errors.As(err, &failed) || failed.Step != "Start" {
			t.Errorf("Reauthenticate: %v", err)
		}
		a.failOnce(failing("Start", true))
		wantErr(t, p.client.Reauthenticate(t.Context()), context.DeadlineExceeded, false)
		call := calling(func() error { return p.client.Reauthenticate(t.Context()) })
		p.Expect(step(codec.ReAuthenticate, "hello"))
		p.Send(step(codec.Success, ""))
		noErr(t, outcome(t, call))
	})
}

// The data of the server belongs to the Authenticator.
func TestAuthenticationDataIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, call := asked(t, &prover{proceed: func(_ context.Context, data []byte) ([]byte, error) {
			time.Sleep(time.Second)
			return data, nil
		}})
		p.Send(step(codec.ContinueAuthentication, "one"))
		synctest.Wait()
		p.Send(toT(0, 0, "overwrites the read buffer"))
		p.Expect(step(codec.ContinueAuthentication, "one"))
		p.Send(step(codec.Success, ""))
		noErr(t, outcome(t, call))
	})
}

// A connection that is lost while Start runs: nothing of the exchange is sent any more, and the Authenticator is not asked
// when to renew what it has not done.
func TestConnectionLostDuringStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &prover{renewals: []time.Duration{0, time.Hour, time.Hour}}
		p := connected(t, a)
		a.failOnce(&prover{start: func(context.Context) ([]byte, error) {
			time.Sleep(time.Second)
			return []byte("late"), nil
		}})
		call := calling(func() error { return p.client.Reauthenticate(t.Context()) })
		stillWaits(t, call)
		p.Cut()
		wantErr(t, outcome(t, call), mqtt.ErrConnectionLost, false)
		p.accept()
		if n := len(get(a, &a.renewals)); n != 2 {
			t.Errorf("RenewAfter has %d answers left", n)
		}
		p.Send(welcome(nil))
		p.ExpectSilence(time.Second)
	})
}

// A message that is acknowledged after a failed re-authentication has ended the connection is not delivered again.
func TestAckAfterFailedReauthentication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &prover{}
		p := connected(t, a)
		subscribed := start(func() (*mqtt.Subscription, error) {
			return p.client.Subscribe(t.Context(), "t", mqtt.AtLeastOnce, mqtt.ManualAck)
		})
		id := mqtttest.ReceiveAs[*codec.Subscribe](p.Script).PacketID
		p.Send(&codec.Suback{PacketID: id, Codes: []codec.ReasonCode{1}}, toT(1, 1, ""))
		sub := subscribed.value(t)
		m, err := sub.Next(t.Context())
		noErr(t, err)
		a.failOnce(failing("Finish", false))
		call := calling(func() error { return p.client.Reauthenticate(t.Context()) })
		p.Expect(step(codec.ReAuthenticate, "hello"))
		p.Send(step(codec.Success, ""))
		wantErr(t, outcome(t, call), errNo, false)
		noErr(t, m.Ack())
		p.accept()
		ack := welcome(nil)
		ack.SessionPresent = true
		p.Send(ack)
		mqtttest.ReceiveAs[*codec.Subscribe](p.Script)
		again := toT(1, 1, "")
		again.Dup = true
		p.Send(again)
		p.Expect(&codec.Puback{PacketID: 1})
		wantArrived(t, sub)
	})
}

// Nobody waits for a connection that is not there.
func TestReauthenticateWithoutConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dialAuth(t, &prover{})
		wantErr(t, p.client.Reauthenticate(t.Context()), mqtt.ErrNotConnected, true)
		p.accept()
		wantErr(t, p.client.Reauthenticate(t.Context()), mqtt.ErrNotConnected, true)
		p.Send(welcome(nil))
		wantState(t, p.client, mqtt.StateConnected)
		p.Cut()
		synctest.Wait()
		wantErr(t, p.client.Reauthenticate(t.Context()), mqtt.ErrNotConnected, true)
	})
}

// Close and Reconnect in every state of an exchange: they say goodbye in an orderly way, those who wait learn why, and no
// goroutine is left.
func TestCloseDuringReauthentication(t *testing.T) {
	for _, which := range []string{"Start", "Continue", "Finish", ""} {
		for _, reconnect := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%v", which, reconnect), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a := &prover{}
					p := connected(t, a)
					if which != "" {
						a.failOnce(failing(which, true))
					}
					call := calling(func() error { return p.client.Reauthenticate(t.Context()) })
					if which != "Start" {
						p.Expect(step(codec.ReAuthenticate, "hello"))
					}
					switch which {
					case "Continue":
						p.Send(step(codec.ContinueAuthentication, ""))
					case "Finish":
						p.Send(step(codec.Success, ""))
					}
					stillWaits(t, call)
					if !reconnect {
						noErr(t, p.client.Close())
						p.Expect(&codec.Disconnect{SessionExpiry: new(uint32)}) // 0x00: no will
						wantErr(t, outcome(t, call), mqtt.ErrClosed, false)
						return
					}
					again := calling(func() error { return p.client.Reconnect(t.Context()) })
					p.Expect(&codec.Disconnect{})
					p.Close()
					wantErr(t, outcome(t, call), mqtt.ErrConnectionLost, false)
					p.again()
					noErr(t, outcome(t, again))
				})
			})
		}
	}
}

// An Authenticator that is slow to return holds up the next connection, so that exchanges never overlap. It does not
// hold up calls of Reauthenticate that wait.
func TestSlowAuthenticator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &prover{proceed: func(context.Context, []byte) ([]byte, error) {
			time.Sleep(20 * time.Second)
			return nil, nil
		}}
		p, call := asked(t, a)
		p.Send(step(codec.ContinueAuthentication, ""))
		synctest.Wait()
		p.Cut()
		cut := time.Now()
		wantErr(t, outcome(t, call), mqtt.ErrConnectionLost, false)
		if d := time.Since(cut); d != 0 {
			t.Errorf("Reauthenticate returns %v after the cut", d)
		}
		a.wantCalls("continue ")
		time.Sleep(15 * time.Second)
		a.wantCalls()
		p.again()
		if d := time.Since(cut); d < 20*time.Second {
			t.Errorf("the next exchange begins %v after the cut", d)
		}

		call = calling(func() error { return p.client.Reauthenticate(t.Context()) })
		p.Expect(step(codec.ReAuthenticate, "hello"))
		p.Send(step(codec.ContinueAuthentication, ""))
		synctest.Wait()
		closing := time.Now()
		closed := calling(p.client.Close)
		err := outcome(t, call)
		if d := time.Since(closing); !errors.Is(err, mqtt.ErrClosed) || errors.Is(err, mqtt.ErrConnectionLost) || d > time.Second {
			t.Errorf("Reauthenticate returns %v after Close: %v", d, err)
		}
		noErr(t, outcome(t, closed))
		if d := time.Since(closing); d != 20*time.Second {
			t.Errorf("Close returns after %v: it waits for the Authenticator", d)
		}
	})
}

// plain is an Authenticator without RenewAfter.
type plain struct{ mqtt.Authenticator }

// A RenewingAuthenticator says after each exchange when the next one is due.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &prover{renewals: []time.Duration{
			time.Hour, 30 * time.Minute, // after the connect, after the first re-authentication
			time.Minute,           // after a Start that failed
			0,                     // never
			2 * time.Hour,         // after Reauthenticate
			time.Hour, -time.Hour, // after another connect, never
		}}
		p := connected(t, a, mqtt.WithKeepAlive(0))
		due := func(after time.Duration) {
			t.Helper()
			began := time.Now()
			p.Patience(24 * time.Hour)
			p.Expect(step(codec.ReAuthenticate, "hello"))
			if d := time.Since(began); d != after {
				t.Errorf("re-authentication after %v, want %v", d, after)
			}
			a.wantCalls("start")
			p.Send(step(codec.Success, ""))
			a.wantCalls("finish ")
		}
		due(time.Hour)
		a.failOnce(failing("Start", false))
		p.ExpectSilence(30 * time.Minute)
		a.wantCalls("start")
		due(time.Minute)
		p.ExpectSilence(100 * time.Hour)
		call := calling(func() error { return p.client.Reauthenticate(t.Context()) })
		due(0)
		noErr(t, outcome(t, call))
		time.Sleep(time.Hour)
		p.Cut()
		time.Sleep(3 * time.Second)
		p.again()
		due(time.Hour)
		p.ExpectSilence(100 * time.Hour)
	})
	synctest.Test(t, func(t *testing.T) { // while there is no connection nothing is renewed
		a := &prover{renewals: []time.Duration{time.Minute}}
		p := connected(t, a)
		p.Cut()
		p.accept()
		time.Sleep(20 * time.Second) // within the connect timeout
		p.Cut()
		p.accept()
		time.Sleep(29 * time.Second)
		p.Cut()
		p.accept()
		time.Sleep(29 * time.Second)
		a.wantCalls("start", "start", "start")
	})
}

// A renewal that the server refuses is followed by a connect with an exchange of its own.
func TestRenewalRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := connected(t, &prover{renewals: []time.Duration{time.Minute}}, mqtt.WithKeepAlive(0))
		p.Expect(step(codec.ReAuthenticate, "hello"))
		p.Send(&codec.Disconnect{Code: codec.NotAuthorized})
		p.Close()
		p.prover.wantCalls("start")
		p.again()
	})
}

// An Authenticator that does not renew is not asked.
func TestNoRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &prover{t: t, renewals: []time.Duration{time.Minute}}
		p := dialAuth(t, a, mqtt.WithAuthenticator(plain{a}))
		p.again()
		if len(a.renewals) != 1 {
			t.Error("RenewAfter was called")
		}
	})
}

// Many re-authentications, by the application and by the timer, while messages come and go, against the broker in memory,
// whose referee watches the order of the packets.
func TestReauthenticateUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		count := 0
		var mu sync.Mutex
		b := mqtttest.NewBroker(t, mqtttest.Authentication("m", func(_ string, data []byte) ([]byte, codec.ReasonCode) {
			mu.Lock()
			defer mu.Unlock()
			if string(data) == "hello" {
				return []byte("prove it"), codec.ContinueAuthentication
			}
			count++
			return []byte("fine"), codec.Success
		}))
		a := &prover{t: t, renewals: slices.Repeat([]time.Duration{time.Millisecond}, 1000)}
		c := reconnectingV5(t, b.DialContext, mqtt.WithAuthenticator(a), mqtt.WithKeepAlive(0),
			mqtt.WithReconnect(mqtt.ReconnectPolicy{InitialDelay: time.Millisecond, MaxDelay: time.Millisecond}))
		sub := subscribe(t, mqtt.Common(c), "t", mqtt.AtLeastOnce)
		var wait sync.WaitGroup
		for range 4 {
			wait.Go(func() {
				for i := range 200 {
					if err := c.Publish(t.Context(), "t", fmt.Append(nil, i), mqtt.AtLeastOnce); err != nil {
						t.Error(err)
					}
				}
			})
			wait.Go(func() {
				for range 50 {
					if err := c.Reauthenticate(t.Context()); err != nil && !errors.Is(err, mqtt.ErrConnectionLost) && !errors.Is(err, mqtt.ErrNotConnected) {
						t.Error(err)
					}
					time.Sleep(time.Millisecond)
				}
			})
		}
		wait.Go(func() {
			for range 10 {
				time.Sleep(7 * time.Millisecond)
				b.Cut()
			}
		})
		for range 4 * 200 {
			if _, err := sub.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		wait.Wait()
		noErr(t, c.Close())
		mu.Lock()
		defer mu.Unlock()
		if count < 50 {
			t.Errorf("%d exchanges", count)
		}
	})
}

// leisurely is an Authenticator that takes its time to say when to authenticate again.
type leisurely struct{ *prover }

func (l leisurely) RenewAfter() time.Duration {
	defer l.do("renew?")()
	time.Sleep(time.Second)
	return 0
}

// A Reauthenticate at once, on the new connection, overlaps with nothing either.
func TestReauthenticateAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := leisurely{&prover{t: t}}
		server := mqtttest.NewServer(t, codec.V5)
		c := start(func() (mqtt.ClientV5, error) {
			return reconnectingV5(t, server.DialContext, mqtt.WithAuthenticator(a)), nil
		})
		s := server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.Send(welcome(nil))
		call := calling(func() error { return c.value(t).Reauthenticate(t.Context()) })
		s.Expect(step(codec.ReAuthenticate, "hello"))
		s.Send(step(codec.Success, ""))
		noErr(t, outcome(t, call))
	})
}
