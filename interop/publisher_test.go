package interop

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
)

// A publisher that breaks the specification must not keep those from working who subscribe. Mosquitto 2.0.11 hands on a
// Response Topic with wildcards, an empty one, and a payload format that does not exist (seen); the rest it stops.
func TestHostilePublisher(t *testing.T) {
	server := startMosquitto(t)
	ctx := within(t)
	c, err := mqtt.NewClient(ctx, server.url())
	check(t, err)
	defer c.Close()
	sub, err := c.Subscribe(ctx, "t", mqtt.AtLeastOnce)
	check(t, err)
	handedOn := 0
	for _, property := range []string{
		"\x08\x00\x03a/#", "\x08\x00\x00", "\x01\x02", "\x02\x00\x00\x00\x00",
		"\x26\x00\x01\xff\x00\x01v", "\x03\x00\x01\x00", "\x08\x00\x01\xff", "\x03\x00\x01a\x03\x00\x01b", "\x7f\x00",
	} {
		if publishRaw(t, server.port, "t", property) {
			handedOn++
			if m, err := sub.Next(ctx); err != nil || m.Properties.ResponseTopic != "" {
				t.Fatalf("%q: %+v, %v", property, m, err)
			}
		}
	}
	if losses := c.Stats().Losses; losses != 0 || handedOn == 0 {
		t.Errorf("%d connections lost over %d messages", losses, handedOn)
	}
}

// publishRaw publishes at QoS 1 with whatever properties and reports whether the server takes it.
func publishRaw(t *testing.T, port int, topic, properties string) bool {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	check(t, err)
	defer conn.Close()
	check(t, conn.SetDeadline(time.Now().Add(patience)))
	packet, err := (&codec.Connect{Version: codec.V5, CleanStart: true, ClientID: "hostile"}).Append(nil, codec.V5)
	check(t, err)
	body := string(rune(0)) + string(rune(len(topic))) + topic + "\x00\x01" + string(rune(len(properties))) + properties
	packet = append(packet, 0x32, byte(len(body)))
	_, err = conn.Write(append(packet, body...))
	check(t, err)
	for {
		p, err := codec.ReadPacket(conn, codec.V5, 0)
		if _, taken := p.(*codec.Puback); taken || err != nil {
			return taken
		}
	}
}
