package mqtt_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// What came before a broken packet is delivered, and then the subscription ends with its error; see TestHostileServer.
func TestReceiveBrokenPublish(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		c, s := scripted(t, v)
		sub, _ := subscribed(t, c, s, "#", mqtt.AtLeastOnce)
		s.Send(message("a", 0, 0))
		s.SendBytes(0x36, 0)
		s.Close()
		<-c.Done()
		wantArrived(t, sub, "a=0 q0")
		wantClosed(t, sub)
		var broken *mqtt.PacketError
		if !errors.As(sub.Err(), &broken) || broken.Packet != "PUBLISH" || broken.Rule != "MQTT-3.3.1-4" {
			t.Errorf("the subscription ends with %v", sub.Err())
		}
	})
}

// A server that sends and does not read is not read any further once more than 16 MiB of what its packets have caused
// waits to be written: otherwise it could fill the client's memory.
func TestServerThatDoesNotRead(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		p := startPeer(t, v, nil, mqtt.WithPingTimeout(time.Hour), mqtt.WithKeepAlive(0), mqtt.WithMaxInFlight(1))
		sub, _ := subscribed(t, p.client, p.Script, "in")
		p.client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		p.Expect(toT(1, 2, ""))
		large := make([]byte, 17<<20)
		p.client.PublishAsync(t.Context(), "t", large, mqtt.AtLeastOnce)
		noErr(t, p.client.Publish(t.Context(), "t", make([]byte, 1<<19))) // more than the network holds: the writer blocks
		synctest.Wait()
		p.Send(&codec.Puback{PacketID: 2}) // makes room in the window for the large message
		synctest.Wait()
		p.Send(&codec.Publish{Topic: "in", Payload: []byte("x")})
		wantArrived(t, sub)
		p.Receive()
		p.Receive()
		wantArrived(t, sub, "in=x q0")
	})
}

// A server that refuses something closes its end after a DISCONNECT. The client's next write may fail before the client
// has read that packet; the reason is reported all the same.
func TestLastWordOfServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := mqtttest.NewServer(t, codec.V5)
		var conn *deaf
		c := start(func() (mqtt.ClientV5, error) {
			return dialV5(t, func(ctx context.Context, network, address string) (net.Conn, error) {
				inner, err := server.DialContext(ctx, network, address)
				conn = &deaf{Conn: inner}
				return conn, err
			}), nil
		})
		s := server.Accept()
		mqtttest.ReceiveAs[*codec.Connect](s)
		s.Send(&codec.Connack{})
		client := c.value(t)
		conn.now.Store(true)
		client.PublishAsync(t.Context(), "t", nil, mqtt.AtLeastOnce)
		time.Sleep(100 * time.Millisecond) // the write has failed
		s.Send(&codec.Disconnect{Code: codec.QuotaExceeded})
		<-client.Done()
		wantErr(t, client.Err(), mqtt.QuotaExceeded, false)
	})
}
