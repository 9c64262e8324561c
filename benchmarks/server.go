package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/gorilla/websocket"

	"github.com/petrel-mqtt/mqtt/codec"
)

// This file is a server that is too cheap to be the limit. It runs in a process of its own. It takes what is published and
// acknowledges a whole read at once; a message with a response topic it sends back; and a subscription to
// flood/{QoS}/{payload}/{messages} gets so many messages, prepared beforehand, as fast as they are taken.

// batchSize is how much the server, and the bare program, move at a time.
const batchSize = 64 << 10

// window is how many messages at QoS 1 and 2 are on their way without acknowledgement, in all rows and both directions.
const window = 1000

// serve prints its address and serves until its standard input ends.
func serve(stdin io.Reader, stdout io.Writer, transport string) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	switch transport {
	case "tls":
		certificate, err := selfSigned()
		if err != nil {
			return err
		}
		go accept(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{certificate}}))
	case "ws":
		go http.Serve(l, http.HandlerFunc(upgrade))
	default:
		go accept(l)
	}
	fmt.Fprintln(stdout, l.Addr())
	_, err = io.Copy(io.Discard, stdin)
	return err
}

func accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go newServed(conn, conn).run()
	}
}

func upgrade(w http.ResponseWriter, r *http.Request) {
	up := websocket.Upgrader{Subprotocols: []string{"mqtt"}, ReadBufferSize: batchSize, WriteBufferSize: batchSize}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	conn := &frames{ws: ws}
	newServed(conn, conn).run()
}

// frames makes a stream of a WebSocket.
type frames struct {
	ws     *websocket.Conn
	reader io.Reader
}

func (f *frames) Read(b []byte) (int, error) {
	for {
		if f.reader == nil {
			_, r, err := f.ws.NextReader()
			if err != nil {
				return 0, err
			}
			f.reader = r
		}
		n, err := f.reader.Read(b)
		if err == io.EOF {
			f.reader, err = nil, nil
			if n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (f *frames) Write(b []byte) (int, error) {
	return len(b), f.ws.WriteMessage(websocket.BinaryMessage, b)
}

func (f *frames) Close() error { return f.ws.Close() }

// served is one client.
type served struct {
	r       *bufio.Reader
	conn    io.ReadWriteCloser
	version codec.Version
	out     []byte // answers to what one read brought

	mu     sync.Mutex // of writing
	flight chan struct{}
}

func newServed(r io.Reader, conn io.ReadWriteCloser) *served {
	return &served{r: bufio.NewReaderSize(r, batchSize), conn: conn, version: codec.V5, flight: make(chan struct{}, window)}
}

func (s *served) run() {
	defer s.conn.Close()
	var body []byte
	for {
		h, err := s.header()
		if err != nil {
			return
		}
		if cap(body) < h.Length {
			body = make([]byte, h.Length)
		}
		body = body[:h.Length]
		if _, err := io.ReadFull(s.r, body); err != nil {
			return
		}
		if s.answer(h, body) != nil {
			return
		}
		if len(s.out) > 0 && (s.r.Buffered() == 0 || len(s.out) > batchSize) {
			s.mu.Lock()
			_, err = s.conn.Write(s.out)
			s.mu.Unlock()
			if err != nil {
				return
			}
			s.out = s.out[:0]
		}
	}
}

func (s *served) header() (h codec.Header, err error) {
	for n := 2; ; n++ {
		b, err := s.r.Peek(n)
		if err != nil {
			return h, err
		}
		h, size, err := codec.ParseHeader(b, s.version)
		if err != nil || size > 0 {
			_, _ = s.r.Discard(size)
			return h, err
		}
	}
}

func (s *served) answer(h codec.Header, body []byte) (err error) {
	switch h.Type {
	case codec.CONNECT:
		err = s.connect(h, body)
	case codec.PUBLISH:
		err = s.publish(h, body)
	case codec.PUBREL:
		s.ack(codec.PUBCOMP, body)
	case codec.PUBREC:
		s.ack(codec.PUBREL, body)
	case codec.PUBACK, codec.PUBCOMP:
		<-s.flight
	case codec.SUBSCRIBE:
		err = s.subscribe(h, body)
	case codec.PINGREQ:
		s.out = append(s.out, 0xD0, 0)
	case codec.DISCONNECT:
		err = io.EOF
	}
	return err
}

func (s *served) connect(h codec.Header, body []byte) error {
	var p codec.Connect
	if err := p.Decode(h, body, s.version); err != nil {
		return err
	}
	s.version = p.Version
	ack := codec.Connack{}
	if s.version == codec.V5 {
		ack.Properties.ReceiveMaximum = window
	}
	b, err := ack.Append(s.out, s.version)
	s.out = b
	return err
}

func (s *served) publish(h codec.Header, body []byte) error {
	var p codec.PublishView
	if err := p.Split(h, body, s.version); err != nil {
		return err
	}
	id := []byte{byte(p.PacketID >> 8), byte(p.PacketID)}
	switch p.QoS {
	case 1:
		s.ack(codec.PUBACK, id)
	case 2:
		s.ack(codec.PUBREC, id)
	}
	if len(p.Properties) > 0 {
		return s.reply(h, body)
	}
	return nil
}

// ack appends an acknowledgement for the identifier at the start of b.
func (s *served) ack(t codec.Type, b []byte) {
	first := byte(t) << 4
	if t == codec.PUBREL {
		first |= 2
	}
	s.out = append(s.out, first, 2, b[0], b[1])
}

// reply sends a request back to where the reply is to go, at QoS 0.
func (s *served) reply(h codec.Header, body []byte) error {
	var p codec.Publish
	if err := p.Decode(h, body, s.version); err != nil || p.Properties.ResponseTopic == "" {
		return err
	}
	b, err := (&codec.Publish{
		Topic: p.Properties.ResponseTopic, Payload: p.Payload,
		Properties: codec.PublishProperties{CorrelationData: p.Properties.CorrelationData},
	}).Append(s.out, s.version)
	s.out = b
	return err
}

func (s *served) subscribe(h codec.Header, body []byte) error {
	var p codec.Subscribe
	if err := p.Decode(h, body, s.version); err != nil {
		return err
	}
	ack := codec.Suback{PacketID: p.PacketID}
	for _, f := range p.Filters {
		ack.Codes = append(ack.Codes, codec.ReasonCode(f.QoS))
	}
	b, err := ack.Append(s.out, s.version)
	s.out = b
	if err != nil {
		return err
	}
	filter := p.Filters[0].Filter
	if qos, size, messages, err := parseFlood(filter); err == nil {
		if _, err := s.conn.Write(s.out); err != nil {
			return err
		}
		s.out = s.out[:0]
		go s.flood(filter, qos, size, messages)
	}
	return nil
}

// parseFlood reads a filter that asks for messages.
func parseFlood(filter string) (qos byte, size, messages int, err error) {
	_, err = fmt.Sscanf(strings.ReplaceAll(filter, "/", " "), "flood %d %d %d", &qos, &size, &messages)
	return qos, size, messages, err
}

// flood sends so many messages, no more than the window at QoS 1 and 2 without acknowledgement.
func (s *served) flood(topic string, qos byte, size, messages int) {
	batch, n := prepare(s.version, topic, qos, size)
	length := len(batch) / n
	once := max(1, batchSize/length)
	for at := 0; messages > 0; {
		some := min(once, n-at, messages)
		if qos > 0 {
			for range some {
				s.flight <- struct{}{}
			}
		}
		s.mu.Lock()
		_, err := s.conn.Write(batch[at*length : (at+some)*length])
		s.mu.Unlock()
		if err != nil {
			return
		}
		messages -= some
		at = (at + some) % n
	}
}

// prepare makes messages and says how many: as many as a batch has room for, or at QoS 1 and 2 a window full, with packet
// identifiers from 1, so that one is free again when its message is sent for the next time.
func prepare(v codec.Version, topic string, qos byte, size int) (batch []byte, n int) {
	p := codec.Publish{Topic: topic, Payload: make([]byte, size), QoS: qos}
	enough := func() bool {
		if qos > 0 {
			return n == window
		}
		return n > 0 && len(batch)+len(batch)/n > batchSize
	}
	for !enough() {
		n++
		if qos > 0 {
			p.PacketID = uint16(n)
		}
		batch, _ = p.Append(batch, v)
	}
	return batch, n
}
