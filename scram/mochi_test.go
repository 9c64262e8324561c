package scram

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
	"github.com/xdg-go/scram"
)

// broker is a mochi whose clients authenticate by SCRAM. mochi itself sends no AUTH before CONNACK, so a hook runs the
// exchange, on the connection's goroutine.
type broker struct {
	mochi.HookBase
	url    string
	method string
	hash   scram.HashGeneratorFcn

	mu            sync.Mutex
	password      string                    // of the user "ada"
	spoil         func(final []byte) []byte // changes the server's last message; nil: it is as it should be
	conversations map[*mochi.Client]*scram.ServerConversation
	last          map[*mochi.Client][]byte // data for CONNACK
	successes     int
}

func startBroker(t *testing.T, method string, hash scram.HashGeneratorFcn) *broker {
	t.Helper()
	b := &broker{
		method: method, hash: hash, password: "pencil",
		conversations: make(map[*mochi.Client]*scram.ServerConversation),
		last:          make(map[*mochi.Client][]byte),
	}
	server := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler)})
	if err := server.AddHook(b, nil); err != nil {
		t.Fatal(err)
	}
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := server.AddListener(tcp); err != nil {
		t.Fatal(err)
	}
	b.url = "mqtt://" + tcp.Address()
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return b
}

func (b *broker) ID() string { return "scram" }

func (b *broker) Provides(event byte) bool {
	return bytes.Contains([]byte{mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnPacketEncode, mochi.OnAuthPacket}, []byte{event})
}

func (b *broker) OnACLCheck(*mochi.Client, string, bool) bool { return true }

func (b *broker) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// lookUp gives the server's side what it stores of a user.
func (b *broker) lookUp(user string) (scram.StoredCredentials, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if user != "ada" {
		return scram.StoredCredentials{}, errors.New("no such user")
	}
	c, err := b.hash.NewClient(user, b.password, "")
	if err != nil {
		return scram.StoredCredentials{}, err
	}
	return c.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "salt", Iters: 4096})
}

// begin starts a conversation with a client.
func (b *broker) begin(cl *mochi.Client) error {
	s, err := b.hash.NewServer(b.lookUp)
	if err == nil {
		b.set(func() { b.conversations[cl] = s.NewConversation() })
	}
	return err
}

// step goes on with it. done says that the client has proved itself.
func (b *broker) step(cl *mochi.Client, pk packets.Packet) (answer []byte, done bool, err error) {
	b.mu.Lock()
	conversation, spoil := b.conversations[cl], b.spoil
	b.mu.Unlock()
	if pk.Properties.AuthenticationMethod != b.method || conversation == nil {
		return nil, false, errors.New("another method")
	}
	text, err := conversation.Step(string(pk.Properties.AuthenticationData))
	if err != nil || conversation.Done() && !conversation.Valid() {
		return nil, false, errors.Join(err, errors.New("no proof"))
	}
	answer = []byte(text)
	if conversation.Done() && spoil != nil {
		answer = spoil(answer)
	}
	if conversation.Done() {
		b.set(func() { b.successes++ })
	}
	return answer, conversation.Done(), nil
}

func (b *broker) sendAuth(cl *mochi.Client, code packets.Code, data []byte) error {
	return cl.WritePacket(packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Auth},
		ReasonCode:  code.Code,
		Properties:  packets.Properties{AuthenticationMethod: b.method, AuthenticationData: data},
	})
}

// OnConnectAuthenticate runs the exchange between CONNECT and CONNACK. mochi refuses with 0x86 if it returns false.
func (b *broker) OnConnectAuthenticate(cl *mochi.Client, pk packets.Packet) bool {
	if err := b.begin(cl); err != nil {
		return false
	}
	for {
		answer, done, err := b.step(cl, pk)
		if err != nil {
			return false
		}
		if done {
			b.set(func() { b.last[cl] = answer })
			return true
		}
		if b.sendAuth(cl, packets.CodeContinueAuthentication, answer) != nil {
			return false
		}
		if pk, err = readAuth(cl); err != nil {
			return false
		}
	}
}

func readAuth(cl *mochi.Client) (pk packets.Packet, err error) {
	header := new(packets.FixedHeader)
	if err := cl.ReadFixedHeader(header); err != nil {
		return pk, err
	}
	if pk, err = cl.ReadPacket(header); err == nil && pk.FixedHeader.Type != packets.Auth {
		err = io.ErrUnexpectedEOF
	}
	return pk, err
}

// OnPacketEncode adds method and data to a CONNACK that grants the connection.
func (b *broker) OnPacketEncode(cl *mochi.Client, pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Type == packets.Connack && pk.ReasonCode == packets.CodeSuccess.Code {
		b.mu.Lock()
		defer b.mu.Unlock()
		pk.Properties.AuthenticationMethod, pk.Properties.AuthenticationData = b.method, b.last[cl]
	}
	return pk
}

// OnAuthPacket answers the client in a re-authentication. mochi disconnects with an error's code.
func (b *broker) OnAuthPacket(cl *mochi.Client, pk packets.Packet) (packets.Packet, error) {
	if pk.ReasonCode == packets.CodeReAuthenticate.Code {
		if err := b.begin(cl); err != nil {
			return pk, packets.ErrNotAuthorized
		}
	}
	answer, done, err := b.step(cl, pk)
	switch {
	case err != nil:
		return pk, packets.ErrNotAuthorized
	case done:
		return pk, b.sendAuth(cl, packets.CodeSuccess, answer)
	}
	return pk, b.sendAuth(cl, packets.CodeContinueAuthentication, answer)
}
