package codec_test

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/petrel-mqtt/mqtt/codec"
)

func Example() {
	var b []byte
	for _, p := range []codec.Packet{
		&codec.Publish{QoS: 1, PacketID: 7, Topic: "sensors/7/temp", Payload: []byte("21.5")},
		&codec.Disconnect{Code: codec.ServerShuttingDown},
	} {
		var err error
		if b, err = p.Append(b, codec.V5); err != nil {
			fmt.Println(err)
			return
		}
	}
	r := bytes.NewReader(b)
	for r.Len() > 0 {
		p, err := codec.ReadPacket(r, codec.V5, 0)
		if err != nil {
			fmt.Println(err)
			return
		}
		switch p := p.(type) {
		case *codec.Publish:
			fmt.Printf("%v %d: %s %s\n", p.Type(), p.PacketID, p.Topic, p.Payload)
		case *codec.Disconnect:
			fmt.Println(p.Type(), p.Code)
		}
	}
	// Output:
	// PUBLISH 7: sensors/7/temp 21.5
	// DISCONNECT Server shutting down
}

// An Error says which rule a packet breaks, and what to answer.
func ExampleError() {
	_, err := codec.ReadPacket(bytes.NewReader([]byte{0x36, 0x00}), codec.V5, 0)
	var e *codec.Error
	if errors.As(err, &e) {
		fmt.Println(e.Packet, e.Code, e.Rule)
		fmt.Println(e)
	}
	// Output:
	// PUBLISH Malformed Packet MQTT-3.3.1-4
	// codec: PUBLISH: QoS 3 [MQTT-3.3.1-4]
}
