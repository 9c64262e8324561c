package transport_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/transport"
)

// Opcodes of frames (RFC 6455 section 5.2), with the bit of the last fragment.
const (
	continued = 0x00
	text      = 0x81
	binaryBit = 0x82
	closing   = 0x88
	ping      = 0x89
	pong      = 0x8A
)

// wsServer is the server's end of a WebSocket, made by hand.
type wsServer struct {
	net.Conn
	in      *bufio.Reader
	request *http.Request
}

// hearUpgrade reads the request for an upgrade.
func hearUpgrade(conn net.Conn) (*wsServer, error) {
	s := &wsServer{Conn: conn, in: bufio.NewReader(conn)}
	var err error
	s.request, err = http.ReadRequest(s.in)
	return s, err
}

// answerUpgrade accepts it, with more lines of header.
func (s *wsServer) answerUpgrade(lines ...string) {
	hash := sha1.Sum([]byte(s.request.Header.Get("Sec-Websocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	lines = append([]string{
		"HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(hash[:]),
	}, lines...)
	io.WriteString(s, strings.Join(lines, "\r\n")+"\r\n\r\n")
}

// acceptWebSocket upgrades a connection as a server of MQTT does; nil if that fails.
func acceptWebSocket(conn net.Conn) *wsServer {
	s, err := hearUpgrade(conn)
	if err != nil {
		return nil
	}
	s.answerUpgrade("Sec-WebSocket-Protocol: mqtt")
	return s
}

// frame makes a frame that is not masked.
func frame(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	return append(b, payload...)
}

// closeFrame is the frame that ends a connection.
func closeFrame(code uint16, text string) []byte {
	return frame(closing, string(binary.BigEndian.AppendUint16(nil, code))+text)
}

// receive reads a frame, which must be masked.
func (s *wsServer) receive() (first byte, payload string, err error) {
	var header [2]byte
	if _, err := io.ReadFull(s.in, header[:]); err != nil {
		return 0, "", err
	}
	n := uint64(header[1] & 0x7F)
	for code, size := range map[uint64]int{126: 2, 127: 8} {
		if n == code {
			long := make([]byte, 8)
			if _, err := io.ReadFull(s.in, long[8-size:]); err != nil {
				return 0, "", err
			}
			n = binary.BigEndian.Uint64(long)
			break
		}
	}
	if header[1]&0x80 == 0 {
		return 0, "", errors.New("a client's frame is not masked")
	}
	masked := make([]byte, 4+n)
	if _, err := io.ReadFull(s.in, masked); err != nil {
		return 0, "", err
	}
	for i := range masked[4:] {
		masked[4+i] ^= masked[i%4]
	}
	return header[0], string(masked[4:]), nil
}

// echoFrames sends the content of binary frames back.
func (s *wsServer) echoFrames() {
	for s != nil {
		first, payload, err := s.receive()
		if err != nil || first != binaryBit {
			return
		}
		s.Write(frame(binaryBit, payload))
	}
}

// [MQTT-6.0.0-3] [MQTT311-6.0.0-3]
func TestWebSocketUpgrade(t *testing.T) {
	ca := mqtttest.NewAuthority()
	server := &tls.Config{Certificates: []tls.Certificate{issue(ca, "server", "host")}, NextProtos: []string{"h2", "http/1.1"}}
	for _, c := range []struct{ url, host, target string }{
		{"ws://host", "host", "/mqtt"},
		{"ws://host:8083/", "host:8083", "/"},
		{"ws://user:secret@host/a%2Fb?token=x&y", "host", "/a%2Fb?token=x&y"},
		{"wss://user:secret@host:444/ws", "host:444", "/ws"},
	} {
		t.Run(c.url, func(t *testing.T) {
			requests := make(chan *http.Request, 1)
			d := transport.Dialer{
				TLS:    &tls.Config{RootCAs: ca.Pool()},
				Header: http.Header{"Authorization": {"Bearer x"}, "Cookie": {"a=1"}},
				NetDial: loopback(t, func(conn net.Conn) {
					if strings.HasPrefix(c.url, "wss") {
						conn = tls.Server(conn, server)
					}
					s := acceptWebSocket(conn)
					requests <- s.request
					s.echoFrames()
				}),
			}
			ctx, cancel := context.WithCancel(t.Context())
			conn, err := d.Dial(ctx, parse(t, c.url))
			check(t, err)
			defer conn.Close()
			cancel() // bounds the dial only
			exchange(t, conn)
			r := <-requests
			if r.Host != c.host || r.RequestURI != c.target {
				t.Errorf("asks %s for %s", r.Host, r.RequestURI)
			}
			for key, want := range map[string]string{
				"Sec-Websocket-Protocol": "mqtt", "Sec-Websocket-Extensions": "", "Authorization": "Bearer x", "Cookie": "a=1",
			} {
				if got := r.Header.Get(key); got != want {
					t.Errorf("%s: %q, want %q", key, got, want)
				}
			}
		})
	}
}

// [MQTT-6.0.0-4] [MQTT311-6.0.0-4], and whatever else a server may answer.
func TestWebSocketUpgradeFails(t *testing.T) {
	accept := func(lines ...string) func(*wsServer) {
		return func(s *wsServer) { s.answerUpgrade(lines...) }
	}
	say := func(text string) func(*wsServer) {
		return func(s *wsServer) { io.WriteString(s, text) }
	}
	body := strings.Repeat("0123456789", 200)
	for name, c := range map[string]struct {
		answer func(*wsServer)
		status int // of an UpgradeError, 0: another error
		text   string
	}{
		"401": {say("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 14\r\n\r\ntoken\x07expired\n"), 401,
			`WebSocket upgrade: the answer is 401 Unauthorized: "token\aexpired"`},
		"403 with much to say": {say("HTTP/1.1 403 Forbidden\r\nContent-Length: 2000\r\n\r\n" + body), 403,
			`the answer is 403 Forbidden: "` + body[:200] + `"`},
		"a redirect":          {say("HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"), 302, "the answer is 302 Found"},
		"an unknown status":   {say("HTTP/1.1 799 x\r\nContent-Length: 0\r\n\r\n"), 799, "the answer is 799"},
		"a page":              {say("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), 200, "the answer is 200 OK"},
		"another protocol":    {say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"), 0, "switches to something"},
		"no subprotocol":      {accept(), 0, `subprotocol "", not mqtt`},
		"another subprotocol": {accept("Sec-WebSocket-Protocol: mqttv3.1"), 0, `subprotocol "mqttv3.1", not mqtt`},
		"an extension": {accept("Sec-WebSocket-Protocol: mqtt",
			"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover"), 0, "extension"},
		"no HTTP": {say("\x20\x02\x00\x00"), 0, "malformed HTTP"},
		"a header for ever": {func(s *wsServer) {
			io.WriteString(s, "HTTP/1.1 200 OK\r\n")
			for err := error(nil); err == nil; {
				_, err = io.WriteString(s, "X-Header: "+body+"\r\n")
			}
		}, 0, "an answer of more than 65536 bytes"},
		"nothing": {say(""), 0, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			d := transport.Dialer{NetDial: loopback(t, func(conn net.Conn) {
				if s, err := hearUpgrade(conn); err == nil {
					c.answer(s)
				}
			})}
			_, err := d.Dial(t.Context(), parse(t, "ws://user:secret@host/mqtt?token=secret"))
			var refused *transport.UpgradeError
			switch {
			case err == nil:
				t.Fatal("connects")
			case errors.As(err, &refused) != (c.status != 0):
				t.Errorf("error %v of type %T", err, errors.Unwrap(err))
			case c.status != 0 && refused.StatusCode != c.status:
				t.Errorf("status %d", refused.StatusCode)
			case !strings.HasPrefix(err.Error(), "WebSocket upgrade: ") || !strings.Contains(err.Error(), c.text) || strings.Contains(err.Error(), "secret"):
				t.Errorf("error %q does not say %q", err, c.text)
			}
			if c.status == 401 && (refused.Header.Get("WWW-Authenticate") != "Bearer" || refused.URL != "ws://host/mqtt?***" || string(refused.Body) != "token\x07expired\n") {
				t.Errorf("refusal %+v", *refused)
			}
			if c.status == 403 && string(refused.Body) != body[:1024] {
				t.Errorf("%d bytes of body", len(refused.Body))
			}
		})
	}
	t.Run("header", func(t *testing.T) {
		d := transport.Dialer{
			Header:  http.Header{"Upgrade": {"secret"}},
			NetDial: loopback(t, func(conn net.Conn) { io.Copy(io.Discard, conn) }),
		}
		if _, err := d.Dial(t.Context(), parse(t, "ws://host")); err == nil || !strings.Contains(err.Error(), "Upgrade") || strings.Contains(err.Error(), "secret") {
			t.Errorf("error %v", err)
		}
	})
}

func TestWebSocketUpgradeEndsWithCtx(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing": "", "a half": "HTTP/1.1 101 Switching", "a refusal without its end": "HTTP/1.1 401 Unauthorized\r\nContent-Length: 10\r\n\r\n",
	} {
		inBubble(t, name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			d := transport.Dialer{NetDial: pipes(t, func(conn net.Conn) {
				if _, err := hearUpgrade(conn); err == nil {
					io.WriteString(conn, answer)
					io.Copy(io.Discard, conn)
				}
			})}
			began := time.Now()
			_, err := d.Dial(ctx, parse(t, "ws://host"))
			var refused *transport.UpgradeError
			if !errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &refused) || time.Since(began) != 3*time.Second {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
	}
}

// dialWebSocket dials a server that serve plays, over a network without buffers.
func dialWebSocket(t *testing.T, serve func(*wsServer)) net.Conn {
	t.Helper()
	d := transport.Dialer{Patience: patience, NetDial: pipes(t, func(conn net.Conn) {
		if s := acceptWebSocket(conn); s != nil {
			serve(s)
		}
	})}
	conn, err := d.Dial(t.Context(), parse(t, "ws://host"))
	check(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// [MQTT-6.0.0-2] [MQTT311-6.0.0-2]: it does not matter where frames and messages end.
func TestWebSocketReads(t *testing.T) {
	large := strings.Repeat("large", 40_000)
	inBubble(t, "", func(t *testing.T) {
		conn := dialWebSocket(t, func(s *wsServer) {
			s.Write(slices.Concat(
				frame(binaryBit, "one"), frame(binaryBit, ""), frame(binaryBit, "two three"),
				frame(binaryBit&^0x80, "fo"), frame(pong, "unasked"), frame(continued, ""), frame(continued|0x80, "ur"),
				frame(binaryBit, large), frame(binaryBit, "five"),
			))
			for _, b := range frame(binaryBit, "six") {
				s.Write([]byte{b})
			}
			s.Close()
		})
		if n, err := conn.Read(nil); n != 0 || err != nil {
			t.Errorf("reading nothing: %d, %v", n, err)
		}
		want := "onetwo threefour" + large + "fivesix"
		var got []byte
		for b := make([]byte, 7); ; {
			n, err := conn.Read(b)
			got = append(got, b[:n]...)
			if err != nil {
				if err != io.EOF {
					t.Error(err)
				}
				break
			}
		}
		if string(got) != want {
			t.Errorf("%d bytes, want %d, or they differ", len(got), len(want))
		}
		for range 2000 { // gorilla/websocket would panic
			if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
				t.Fatal(err)
			}
		}
	})
}

// Each frame is a message of its own, and not too large.
func TestWebSocketWrites(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		const size = 64 << 10
		received := make(chan string, 100)
		conn := dialWebSocket(t, func(s *wsServer) {
			defer close(received)
			for {
				first, payload, err := s.receive()
				if err != nil {
					return
				}
				if first != binaryBit || len(payload) > size {
					t.Errorf("a frame %x of %d bytes", first, len(payload))
				}
				received <- payload
			}
		})
		var want strings.Builder
		frames := 0
		for _, n := range []int{0, 1, 125, 126, size - 1, size, size + 1, 3*size + 7} {
			b := bytes.Repeat([]byte{byte(n), 'x', 0xFF}, n/3+1)[:n]
			before := bytes.Clone(b)
			if written, err := conn.Write(b); written != n || err != nil {
				t.Fatal(written, err)
			}
			if !bytes.Equal(b, before) {
				t.Error("the bytes were changed")
			}
			want.Write(b)
			frames += (n + size - 1) / size
		}
		conn.Close()
		var got strings.Builder
		n := 0
		for payload := range received {
			got.WriteString(payload)
			n++
		}
		if got.String() != want.String() || n != frames {
			t.Errorf("%d bytes in %d frames, want %d in %d", got.Len(), n, want.Len(), frames)
		}
		if n, err := conn.Write([]byte("x")); n != 0 || err == nil {
			t.Errorf("after Close: %d, %v", n, err)
		}
	})
}

func TestWebSocketConcurrentWrites(t *testing.T) {
	const writers, writes, size = 4, 50, 1000
	received := make(chan error, 1)
	d := transport.Dialer{NetDial: loopback(t, func(conn net.Conn) {
		s := acceptWebSocket(conn)
		for n := 0; n < writers*writes; {
			first, payload, err := s.receive()
			if err != nil || first == binaryBit && (len(payload) != size || strings.Trim(payload, payload[:1]) != "") {
				received <- fmt.Errorf("a frame of %d bytes, or from two Writes: %v", len(payload), err)
				return
			}
			if first == binaryBit {
				n++
			}
			s.Write(frame(ping, "p")) // and the reader writes too
		}
		received <- nil
	})}
	conn, err := d.Dial(t.Context(), parse(t, "ws://host"))
	check(t, err)
	defer conn.Close()
	go io.Copy(io.Discard, conn)
	for i := range writers {
		go func() {
			for range writes {
				conn.Write(bytes.Repeat([]byte{byte(i)}, size))
			}
		}()
	}
	check(t, <-received)
}

// [MQTT-6.0.0-1] [MQTT311-6.0.0-1]
func TestWebSocketTextFrame(t *testing.T) {
	inBubble(t, "", func(t *testing.T) {
		heard := make(chan string, 1)
		conn := dialWebSocket(t, func(s *wsServer) {
			s.Write(slices.Concat(frame(binaryBit, "good"), frame(text, "bad")))
			first, payload, err := s.receive()
			heard <- fmt.Sprintf("%x %q %v", first, payload, err)
		})
		got := make([]byte, 10)
		if n, err := conn.Read(got); string(got[:n]) != "good" || err != nil {
			t.Errorf("%q, %v", got[:n], err)
		}
		for range 2 {
			if n, err := conn.Read(got); n != 0 || err == nil || !strings.Contains(err.Error(), "text frame") {
				t.Errorf("%d bytes, %v", n, err)
			}
		}
		if got, want := <-heard, `88 "\x03\xebbinary frames only" <nil>`; got != want { // 1003
			t.Errorf("the server hears %s, want %s", got, want)
		}
	})
}

func TestWebSocketEnds(t *testing.T) {
	for name, c := range map[string]struct {
		frames []byte
		want   string // of the error
		answer string // the close frame that the server gets
	}{
		"no word":         {nil, "EOF", ""},
		"in a frame":      {frame(binaryBit, "half")[:3], "EOF", ""},
		"normal":          {closeFrame(1000, "bye"), "EOF", "\x03\xe8"},
		"without a code":  {frame(closing, ""), "EOF", ""},
		"going away":      {closeFrame(1001, ""), `the server closed the WebSocket with code 1001 ""`, "\x03\xe9"},
		"policy":          {closeFrame(1008, "no \x07"), `the server closed the WebSocket with code 1008 "no \a"`, "\x03\xf0"},
		"a reserved code": {closeFrame(1006, ""), "websocket: bad close code 1006", "\x03\xeabad close code 1006"},
		"a masked frame":  {[]byte{binaryBit, 0x81, 0, 0, 0, 0, 'x'}, "websocket: bad MASK", "\x03\xeabad MASK"},
		"reserved bits":   {[]byte{binaryBit | 0x40, 1, 'x'}, "websocket: RSV1 set", "\x03\xeaRSV1 set"},
		"a large ping":    {frame(ping, strings.Repeat("x", 126)), "websocket: len > 125 for control", "\x03\xealen > 125 for control"},
		"a huge frame":    {append([]byte{binaryBit, 127}, bytes.Repeat([]byte{0xFF}, 8)...), "websocket: read limit exceeded", ""},
	} {
		inBubble(t, name, func(t *testing.T) {
			heard := make(chan string, 1)
			conn := dialWebSocket(t, func(s *wsServer) {
				s.Write(c.frames)
				if c.answer == "" {
					s.Close()
				}
				_, payload, _ := s.receive()
				heard <- payload
			})
			_, err := io.ReadFull(conn, make([]byte, 100))
			if err == nil || !strings.HasSuffix(err.Error(), c.want) {
				t.Errorf("error %v, want %s", err, c.want)
			}
			conn.Close()
			if got := <-heard; got != c.answer {
				t.Errorf("the server hears %q, want %q", got, c.answer)
			}
		})
	}
	inBubble(t, "CloseWrite", func(t *testing.T) {
		heard := make(chan string, 1)
		conn := dialWebSocket(t, func(s *wsServer) {
			first, payload, err := s.receive()
			heard <- fmt.Sprintf("%x %q %v", first, payload, err)
			s.Write(slices.Concat(frame(binaryBit, "rest"), closeFrame(1000, "")))
		})
		check(t, conn.(interface{ CloseWrite() error }).CloseWrite())
		if got, want := <-heard, `88 "\x03\xe8" <nil>`; got != want {
			t.Errorf("the server hears %s, want %s", got, want)
		}
		if got, err := io.ReadAll(conn); string(got) != "rest" || err != nil {
			t.Errorf("the rest is %q, %v", got, err)
		}
		if _, err := conn.Write([]byte("x")); err == nil {
			t.Error("Write after CloseWrite")
		}
	})
	inBubble(t, "Close does not wait", func(t *testing.T) {
		conn := dialWebSocket(t, func(s *wsServer) { time.Sleep(time.Hour) })
		began := time.Now()
		if err := conn.Close(); err != nil || time.Since(began) != 0 {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
	})
}

func TestWebSocketPing(t *testing.T) {
	inBubble(t, "at rest", func(t *testing.T) {
		pongs := make(chan string, 10)
		conn := dialWebSocket(t, func(s *wsServer) {
			for _, text := range []string{"one", ""} {
				s.Write(frame(ping, text))
				first, payload, err := s.receive()
				pongs <- fmt.Sprintf("%x %q %v", first, payload, err)
			}
		})
		go conn.Read(make([]byte, 1))
		for _, want := range []string{`8a "one" <nil>`, `8a "" <nil>`} {
			if got := <-pongs; got != want {
				t.Errorf("the server hears %s, want %s", got, want)
			}
		}
	})
	// A reader that waited for the Write would wait for the server, and the server for the reader.
	inBubble(t, "while the server does not read", func(t *testing.T) {
		received := make(chan string, 10)
		conn := dialWebSocket(t, func(s *wsServer) {
			s.in.ReadByte() // the Write has begun
			s.in.UnreadByte()
			for i := range 3 {
				s.Write(frame(ping, fmt.Sprint(i)))
			}
			s.Write(frame(binaryBit, "data"))
			for {
				first, payload, err := s.receive()
				if err != nil {
					close(received)
					return
				}
				received <- fmt.Sprintf("%x %d", first, len(payload))
			}
		})
		done := make(chan error)
		go func() {
			_, err := conn.Write(make([]byte, 100_000))
			done <- err
		}()
		got := make([]byte, 4)
		if _, err := io.ReadFull(conn, got); string(got) != "data" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		check(t, <-done)
		synctest.Wait()
		conn.Close()
		var all []string
		for r := range received {
			all = append(all, r)
		}
		if want := []string{"82 65536", "8a 1", "82 34464"}; !slices.Equal(all, want) { // the latest ping alone is answered
			t.Errorf("the server hears %q, want %q", all, want)
		}
	})
}

// Whatever a server sends, nothing panics, and nothing waits for more than has come.
func FuzzWebSocket(f *testing.F) {
	f.Add(true, frame(binaryBit, "one"))
	f.Add(true, slices.Concat(frame(ping, "p"), frame(binaryBit&^0x80, "a"), frame(continued, "b"), closeFrame(1000, "c")))
	f.Add(true, frame(text, "t"))
	f.Add(false, []byte("HTTP/1.1 401 Unauthorized\r\nContent-Length: 3\r\n\r\nabc"))
	f.Add(false, []byte("HTTP/1.1 101 Switching Protocols\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, upgraded bool, data []byte) {
		client, server := net.Pipe()
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer server.Close()
			if s, err := hearUpgrade(server); err == nil {
				if upgraded {
					s.answerUpgrade("Sec-WebSocket-Protocol: mqtt")
				}
				go io.Copy(io.Discard, s.in)
				server.Write(data)
			}
		}()
		d := transport.Dialer{NetDial: func(context.Context, string, string) (net.Conn, error) { return client, nil }}
		conn, err := d.Dial(t.Context(), parse(t, "ws://host"))
		if err == nil {
			if n, _ := io.Copy(io.Discard, conn); n > int64(len(data)) {
				t.Errorf("%d bytes of %d", n, len(data))
			}
			conn.Close()
		}
		client.Close()
		<-done
	})
}
