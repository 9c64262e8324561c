package main

import (
	"net"

	"github.com/petrel-mqtt/mqtt/codec"
)

// bare is the limit: a program that moves the same bytes as a client, 64 KiB at a time, and looks at none of them.
type bare struct {
	conn   net.Conn
	buffer [batchSize]byte
	single []byte // the message that one sends
}

func dialBare(address, transport string) (client, error) {
	if transport != "" {
		return nil, errNotOffered
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	b := &bare{conn: conn}
	return b, b.exchange(&codec.Connect{Version: codec.V5, CleanStart: true, ClientID: "bare"})
}

// exchange sends a packet and reads the answer.
func (b *bare) exchange(p codec.Packet) error {
	packet, err := p.Append(nil, codec.V5)
	if err != nil {
		return err
	}
	if _, err := b.conn.Write(packet); err != nil {
		return err
	}
	_, err = codec.ReadPacket(b.conn, codec.V5, 0)
	return err
}

func (b *bare) close() { b.conn.Close() }

// publish writes a batch and, at QoS 1 and 2, waits for as many acknowledgements. Two windows, of half the size each, are
// on their way, so that neither end waits for the other.
func (b *bare) publish(n int, qos byte, payload []byte) error {
	p := codec.Publish{Topic: topicName, Payload: payload, QoS: qos}
	var batch, rels []byte
	count := 0
	for ; count == 0 || len(batch)+len(batch)/count <= batchSize && (qos == 0 || count < window/2); count++ {
		if qos > 0 {
			p.PacketID = uint16(count + 1)
		}
		batch, _ = p.Append(batch, codec.V5)
		rels = append(rels, 0x62, 2, byte(p.PacketID>>8), byte(p.PacketID))
	}
	length := len(batch) / count
	ahead := 0 // messages written and not acknowledged
	for n > 0 || ahead > 0 {
		some := min(count, n)
		if _, err := b.conn.Write(batch[:some*length]); err != nil {
			return err
		}
		n -= some
		if qos == 0 {
			continue
		}
		if ahead > 0 {
			if err := b.acknowledged(ahead, qos, rels); err != nil {
				return err
			}
		}
		ahead = some
	}
	return nil
}

// acknowledged reads so many acknowledgements and, at QoS 2, answers them and reads those of the answers.
func (b *bare) acknowledged(n int, qos byte, rels []byte) error {
	if err := b.skip(4 * n); err != nil || qos == 1 {
		return err
	}
	if _, err := b.conn.Write(rels[:4*n]); err != nil {
		return err
	}
	return b.skip(4 * n)
}

func (b *bare) skip(n int) error {
	for n > 0 {
		got, err := b.conn.Read(b.buffer[:min(n, len(b.buffer))])
		if err != nil {
			return err
		}
		n -= got
	}
	return nil
}

func (b *bare) one(qos byte, payload []byte) (err error) {
	if b.single == nil {
		b.single, err = (&codec.Publish{Topic: topicName, Payload: payload, QoS: qos, PacketID: uint16(min(qos, 1))}).Append(nil, codec.V5)
	}
	if err == nil {
		_, err = b.conn.Write(b.single)
	}
	if err != nil || qos == 0 {
		return err
	}
	return b.acknowledged(1, qos, []byte{0x62, 2, 0, 1})
}

// receive reads what comes and acknowledges it, as many messages at a time as a read brings; at QoS 2 a window.
func (b *bare) receive(n int, qos byte, filter string) error {
	if err := b.exchange(&codec.Subscribe{PacketID: 1, Filters: []codec.SubscribeFilter{{Filter: filter, QoS: qos}}}); err != nil {
		return err
	}
	_, size, _, err := parseFlood(filter)
	if err != nil {
		return err
	}
	p := codec.Publish{Topic: filter, Payload: make([]byte, size), QoS: qos}
	if qos > 0 {
		p.PacketID = 1
	}
	length := p.Size(codec.V5)
	switch qos {
	case 1:
		return b.receiveQoS1(n, length)
	case 2:
		return b.receiveQoS2(n, length)
	}
	return b.skip(n * length)
}

func (b *bare) receiveQoS1(n, length int) error {
	acks := acknowledgements(codec.PUBACK)
	came, acked := 0, 0
	for came < n*length {
		got, err := b.conn.Read(b.buffer[:])
		if err != nil {
			return err
		}
		came += got
		whole := came/length - acked
		if _, err := b.conn.Write(acks[:4*whole]); err != nil {
			return err
		}
		acked += whole
	}
	return nil
}

func (b *bare) receiveQoS2(n, length int) error {
	recs, comps := acknowledgements(codec.PUBREC), acknowledgements(codec.PUBCOMP)
	for n > 0 {
		some := min(n, window)
		for _, step := range []struct {
			bytes  int
			answer []byte
		}{{some * length, recs}, {some * 4, comps}} {
			if err := b.skip(step.bytes); err != nil {
				return err
			}
			if _, err := b.conn.Write(step.answer[:4*some]); err != nil {
				return err
			}
		}
		n -= some
	}
	return nil
}

// acknowledgements makes a window of them. The server does not look at their identifiers.
func acknowledgements(t codec.Type) (b []byte) {
	for i := range window {
		b = append(b, byte(t)<<4, 2, byte((i+1)>>8), byte(i+1))
	}
	return b
}
