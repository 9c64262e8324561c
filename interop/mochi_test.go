package interop

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"testing"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/mochi-mqtt/server/v2/packets"
)

// anyServer is a server of one test on the loopback interface.
type anyServer struct {
	port  int
	mochi bool // with the faults that startMochi lists
}

func (s anyServer) url() string { return fmt.Sprintf("mqtt://127.0.0.1:%d", s.port) }

// eachServer runs a test against every server, each of them new.
func eachServer(t *testing.T, test func(t *testing.T, server anyServer)) {
	eachServerAt(t, 1024, test)
}

// eachServerAt is eachServer with a Receive Maximum of the server. Some tests leave thousands of messages at the server, of which
// Mosquitto as it is installed would drop all beyond 1,000; some wait for thousands of answers one by one, and it lets each wait
// 40 ms for the client's TCP acknowledgement unless set_tcp_nodelay says otherwise.
func eachServerAt(t *testing.T, receiveMaximum int, test func(t *testing.T, server anyServer)) {
	t.Run("Mosquitto", func(t *testing.T) {
		lines := fmt.Sprintf("max_inflight_messages %d", receiveMaximum)
		test(t, anyServer{port: startMosquitto(t, unboundedQueues, "set_tcp_nodelay true", lines).port})
	})
	t.Run("mochi", func(t *testing.T) { test(t, startMochi(t, receiveMaximum)) })
}

// startMochi starts a mochi inside the test's program. It drops nothing silently, and takes as many topic aliases as
// Mosquitto.
//
// mochi 2.7.9 breaks the specification where several tests have to step aside (all of it seen):
//   - It keeps one table of packet identifiers for both directions (section 2.2.1). A PUBLISH with identifier n makes it
//     forget a message of its own under n, which is lost when the connection is, and a SUBSCRIBE with n is refused with
//     0x91.
//   - Of messages beyond the client's Receive Maximum it forgets some, sends others out of order [MQTT-4.6.0-6], and
//     then stalls.
//   - On a new connection it sends the messages of one second in any order [MQTT-4.6.0-1].
//   - A message that it has kept for a client keeps the topic alias of the client's last connection [MQTT-3.3.2-7].
//   - It may end a session that does not outlive its connection only after the next connection of the client has been told that
//     it has a new one, and then ends that one (section 3.1.2.11.2).
//   - Its Close waits for ever if a client leaves at an unlucky moment: it locks its list of clients twice for reading.
//   - It takes topic aliases and announces none (section 3.2.2.3.8).
//   - PUBACK and PUBREC get the properties of the PUBLISH, and PUBACK then the reason code 0x01 [MQTT-3.4.2-1].
func startMochi(t testing.TB, receiveMaximum int) anyServer {
	t.Helper()
	can := mochi.NewDefaultServerCapabilities()
	can.ReceiveMaximum = uint16(receiveMaximum)
	can.TopicAliasMaximum = mochiAliases
	can.MaximumClientWritesPending = 1 << 20
	can.MaximumInflight = 1<<16 - 1
	can.Compatibilities.NoInheritedPropertiesOnAck = true
	server := mochi.New(&mochi.Options{Logger: slog.New(slog.DiscardHandler), Capabilities: can})
	if err := server.AddHook(new(mochiHook), nil); err != nil {
		t.Fatal(err)
	}
	tcp := listeners.NewTCP(listeners.Config{ID: "tcp", Address: "127.0.0.1:0"})
	if err := server.AddListener(tcp); err != nil {
		t.Fatal(err)
	}
	if err := server.Serve(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeMochi(t, server) })
	_, text, err := net.SplitHostPort(tcp.Address())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return anyServer{port: port, mochi: true}
}

// closeMochi ends a server, or leaves it alone if it does not end.
func closeMochi(t testing.TB, server *mochi.Server) {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		server.Close()
	}()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Log("mochi does not end")
	}
}

const mochiAliases = 10

// mochiHook lets everybody do everything, and mends what mochi does with topic aliases.
type mochiHook struct{ mochi.HookBase }

func (h *mochiHook) Provides(event byte) bool {
	return bytes.Contains([]byte{mochi.OnConnectAuthenticate, mochi.OnACLCheck, mochi.OnConnect, mochi.OnPacketEncode}, []byte{event})
}

func (h *mochiHook) OnConnectAuthenticate(*mochi.Client, packets.Packet) bool { return true }
func (h *mochiHook) OnACLCheck(*mochi.Client, string, bool) bool              { return true }

// OnConnect keeps aliases from clients with a kept session.
func (h *mochiHook) OnConnect(cl *mochi.Client, pk packets.Packet) error {
	if !pk.Connect.Clean {
		cl.Properties.Props.TopicAliasMaximum = 0
	}
	return nil
}

// OnPacketEncode says how many aliases are taken.
func (h *mochiHook) OnPacketEncode(_ *mochi.Client, pk packets.Packet) packets.Packet {
	if pk.FixedHeader.Type == packets.Connack && pk.ReasonCode == packets.CodeSuccess.Code {
		pk.Properties.TopicAliasMaximum = mochiAliases
	}
	return pk
}
