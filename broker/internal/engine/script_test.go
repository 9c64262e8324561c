package engine_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
	"github.com/petrel-mqtt/mqtt/codec"
)

// exchange is a conversation of clients with the broker, byte by byte. It has the numbers of the statements that it holds.
//
// A line of its script is about a client, which has a letter; one with a capital letter speaks the other version:
//
//	a! clean id=x    connects, with a CONNECT that the words describe (see connectPacket), and gets a CONNACK that accepts it
//	a> 30('t' {})    sends bytes
//	a< 30('t' {})    gets a packet, and nothing before it
//	a& 40(0001) d0() gets these packets, in any order
//	a~               gets nothing: the answer to a PINGREQ comes next
//	a# 81            gets DISCONNECT with this reason code, of which MQTT 3.1.1 has none, and the end of the connection
//	a% 81 --         gets a CONNACK that refuses it, with this reason code or the return code after it, and the end of the
//	                 connection; -- stands for no CONNACK at all
//	a-               is refused: it gets the end of the connection, and before that at most a CONNACK that says no
//	a.               gets the end of the connection
//	a/               hangs up
//	wait 5s          lets time go by
//
// Bytes are hexadecimal digits, a "text", a 'string' with its length before it, a ( ) whose length is before it as a
// variable byte integer, as that of a packet is, or { } likewise: properties, which MQTT 3.1.1 does not have. {*} is any
// properties, * all the rest of a packet, + success at the end of an acknowledgement (MQTT 5.0 has two forms of it), ?x any two bytes, but the same ones wherever the script says ?x, and VV the
// protocol version. What follows # at the beginning of a line is a comment.
type exchange struct {
	about  string
	in     string // the versions that it is for: "5", "3" or "" for both
	script string
}

// play runs exchanges, each with a broker of its own and in virtual time.
func play(t *testing.T, exchanges []exchange) {
	t.Helper()
	playWith(t, nil, exchanges)
}

// playWith plays exchanges with a broker of another configuration.
func playWith(t *testing.T, change func(*engine.Config), exchanges []exchange) {
	t.Helper()
	for i, e := range exchanges {
		for _, v := range []codec.Version{codec.V5, codec.V311} {
			if e.in == "5" && v != codec.V5 || e.in == "3" && v != codec.V311 {
				continue
			}
			t.Run(fmt.Sprintf("%d %s %v", i, e.about, v), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p := &player{t: t, main: v, clients: map[byte]*client{}, bound: map[byte][]byte{}}
					p.serve, p.stop = newServer(t, change)
					defer p.end()
					p.run(e.script)
				})
			})
		}
	}
}

// player plays one exchange.
type player struct {
	t       *testing.T
	main    codec.Version // of clients with small letters
	version codec.Version // of the client that the line is about
	serve   func(net.Conn)
	stop    func() // ends the broker, when all connections have ended
	clients map[byte]*client
	bound   map[byte][]byte // what ?x stands for
	running sync.WaitGroup
	line    string
}

// client is one that the script plays.
type client struct {
	conn net.Conn

	mu    sync.Mutex // guards the fields below
	bytes []byte     // that have come
	err   error      // why no more come
}

func (p *player) fatalf(format string, args ...any) {
	p.t.Helper()
	p.t.Fatalf("%s\n%s", p.line, fmt.Sprintf(format, args...))
}

func (p *player) run(script string) {
	p.t.Helper()
	for line := range strings.Lines(script) {
		if p.line = strings.TrimSpace(line); p.line == "" || p.line[0] == '#' {
			continue
		}
		if d, ok := strings.CutPrefix(p.line, "wait "); ok {
			p.wait(d)
			continue
		}
		p.step(p.line[0], p.line[1], strings.TrimSpace(p.line[2:]))
	}
}

func (p *player) wait(text string) {
	p.t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		p.fatalf("%v", err)
	}
	time.Sleep(d)
	synctest.Wait()
}

func (p *player) step(letter, verb byte, text string) {
	p.t.Helper()
	p.version = p.main
	if letter < 'a' {
		p.version = codec.V5 + codec.V311 - p.main
	}
	switch verb {
	case '!':
		p.join(letter, text)
	case '>':
		p.send(letter, p.bytes(text))
	case '<':
		p.expectAll(letter, text)
	case '&':
		p.expectAny(letter, text)
	case '~':
		p.send(letter, []byte{0xC0, 0})
		p.expectAll(letter, "d0()")
	case '#':
		if p.version == codec.V5 {
			p.expectDisconnect(letter, p.bytes(text))
		}
		p.expectEnd(letter)
	case '%':
		v5, v311, _ := strings.Cut(text, " ")
		if p.version == codec.V5 {
			v311 = v5
		}
		if v311 != "--" {
			p.expect(letter, "20(00 "+v311+" {*})")
		}
		p.expectEnd(letter)
	case '-':
		if packet, err := p.next(letter); packet != nil && (packet[0] != 0x20 || packet[2] != 0 || packet[3] == 0) || packet == nil && err == nil {
			p.fatalf("got % x, want a refusal", packet)
		}
		p.expectEnd(letter)
	case '.':
		p.expectEnd(letter)
	case '/':
		p.clients[letter].conn.Close()
		delete(p.clients, letter)
		synctest.Wait()
	default:
		p.fatalf("no such verb")
	}
}

// join connects a client. present=1 says that there is a session.
func (p *player) join(letter byte, words string) {
	p.t.Helper()
	present := "00"
	if rest, ok := strings.CutPrefix(words, "present"); ok {
		present, words = "01", strings.TrimSpace(rest)
	}
	p.send(letter, connectPacket(p.t, p.version, words))
	p.expectAll(letter, "20("+present+" 00 {*})")
}

// connectPacket makes a CONNECT. Its client identifier is c unless the words say otherwise.
func connectPacket(t *testing.T, v codec.Version, words string) []byte {
	t.Helper()
	c := codec.Connect{ClientID: "c"}
	number := func(text string, most uint64) uint64 {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil || n > most {
			t.Fatalf("%q: %v", text, err)
		}
		return n
	}
	for _, word := range strings.Fields(words) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "clean":
			c.CleanStart = true
		case "id":
			c.ClientID = value
		case "user":
			c.Username, c.HasUsername = value, true
		case "password":
			c.Password, c.HasPassword = []byte(value), true
		case "alive":
			c.KeepAlive = uint16(number(value, 0xFFFF))
		case "expiry":
			n := uint32(number(value, 0xFFFF_FFFF))
			c.Properties.SessionExpiry = &n
		case "kept": // in either version
			if n := uint32(1000); v == codec.V5 {
				c.Properties.SessionExpiry = &n
			}
		case "window":
			c.Properties.ReceiveMaximum = uint16(number(value, 0xFFFF))
		case "largest":
			c.Properties.MaximumPacketSize = uint32(number(value, 0xFFFF_FFFF))
		case "aliases":
			c.Properties.TopicAliasMaximum = uint16(number(value, 0xFFFF))
		case "method":
			c.Properties.AuthenticationMethod = value
		case "data":
			c.Properties.AuthenticationData = []byte(value)
		case "noproblems":
			c.Properties.RequestProblemInformation = new(bool)
		case "will": // topic,payload,QoS,retain,delay
			parts := strings.Split(value, ",")
			c.Will = &codec.Will{Topic: parts[0], Payload: []byte(parts[1]), QoS: byte(number(parts[2], 2)), Retain: parts[3] == "1"}
			if v == codec.V5 {
				c.Will.Properties.WillDelay = time.Duration(number(parts[4], 0xFFFF_FFFF)) * time.Second
			}
		default:
			t.Fatalf("no such word: %s", word)
		}
	}
	packet, err := c.Append(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

// send writes bytes, and connects before if the client does not yet.
func (p *player) send(letter byte, text []byte) {
	p.t.Helper()
	c := p.clients[letter]
	if c == nil {
		c = p.dial()
		p.clients[letter] = c
	}
	c.conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := c.conn.Write(text); err != nil && !errors.Is(err, io.ErrClosedPipe) { // a broker that hangs up meanwhile is for the next line
		p.fatalf("cannot send: %v", err)
	}
}

func (p *player) dial() *client {
	theirs, ours := net.Pipe()
	c := &client{conn: ours}
	p.running.Go(func() { p.serve(theirs) })
	p.running.Go(c.read)
	return c
}

func (c *client) read() {
	buf := make([]byte, 4096)
	for {
		n, err := c.conn.Read(buf)
		c.mu.Lock()
		c.bytes = append(c.bytes, buf[:n]...)
		c.err = err
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// next takes the next packet that has come, when everything has come to rest.
func (p *player) next(letter byte) (packet []byte, err error) {
	p.t.Helper()
	synctest.Wait()
	c := p.clients[letter]
	if c == nil {
		p.fatalf("there is no such client")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h, n, err := codec.ParseHeader(c.bytes, codec.V5)
	switch {
	case err != nil:
		p.fatalf("not a packet: % x: %v", c.bytes, err)
	case n == 0 && c.err != nil:
		return nil, c.err
	case n == 0 || len(c.bytes) < n+h.Length:
		return nil, nil
	}
	packet, c.bytes = c.bytes[:n+h.Length], c.bytes[n+h.Length:]
	return packet, nil
}

// packets cuts a text into those of packets.
func packets(text string) (list []string) {
	for text != "" {
		end := strings.IndexByte(text, ')') + 1
		list = append(list, text[:end])
		text = strings.TrimSpace(text[end:])
	}
	return list
}

// expectAll takes packets, in their order.
func (p *player) expectAll(letter byte, text string) {
	p.t.Helper()
	for _, want := range packets(text) {
		p.expect(letter, want)
	}
}

// expectAny takes packets in any order.
func (p *player) expectAny(letter byte, text string) {
	p.t.Helper()
	open := packets(text)
	for len(open) > 0 {
		packet, err := p.next(letter)
		i := slices.IndexFunc(open, func(want string) bool { return packet != nil && p.is(packet, want) })
		if i < 0 {
			p.fatalf("got % x %q (%v)\nwant one of %s", packet, packet, err, open)
		}
		open = slices.Delete(open, i, i+1)
	}
}

func (p *player) expect(letter byte, text string) {
	p.t.Helper()
	packet, err := p.next(letter)
	if packet == nil {
		p.fatalf("nothing comes (%v), want %s", err, text)
	}
	if !p.is(packet, text) {
		p.fatalf("got % x %q\nwant %s", packet, packet, text)
	}
}

// is reports whether a packet is what the text says.
func (p *player) is(packet []byte, text string) bool {
	p.t.Helper()
	_, n, _ := codec.ParseHeader(packet, codec.V5)
	open := strings.IndexByte(text, '(')
	return packet[0] == p.bytes(text[:open])[0] && p.matches(packet[n:], text[open+1:len(text)-1])
}

// expectDisconnect takes DISCONNECT with a reason code, in any of its forms.
func (p *player) expectDisconnect(letter byte, code []byte) {
	p.t.Helper()
	packet, err := p.next(letter)
	if packet == nil || packet[0] != 0xE0 {
		p.fatalf("got % x (%v), want DISCONNECT", packet, err)
	}
	if len(packet) < 3 || packet[2] != code[0] {
		p.fatalf("got DISCONNECT % x, want %x", packet, code)
	}
}

func (p *player) expectEnd(letter byte) {
	p.t.Helper()
	packet, err := p.next(letter)
	if packet != nil || !errors.Is(err, io.EOF) {
		p.fatalf("got % x (%v), want the end of the connection", packet, err)
	}
	delete(p.clients, letter)
}

// end hangs up for all.
func (p *player) end() {
	for _, c := range p.clients {
		c.conn.Close()
	}
	p.running.Wait()
	p.stop()
}

// bytes turns text into bytes.
func (p *player) bytes(text string) []byte {
	p.t.Helper()
	b, rest := p.encode(text, 0)
	if rest != "" {
		p.fatalf("too much at the end: %s", rest)
	}
	return b
}

// encode turns text into bytes until the closing bracket.
func (p *player) encode(text string, until byte) (b []byte, rest string) {
	p.t.Helper()
	for {
		text = strings.TrimLeft(text, " \t")
		if text == "" || text[0] == until {
			return b, text
		}
		switch text[0] {
		case '"', '\'':
			s, n := p.quoted(text)
			if text[0] == '\'' {
				b = append(b, byte(len(s)>>8), byte(len(s)))
			}
			b, text = append(b, s...), text[n:]
		case '(', '{':
			closing := map[byte]byte{'(': ')', '{': '}'}[text[0]]
			properties := text[0] == '{'
			var inner []byte
			if inner, rest = p.encode(text[1:], closing); rest == "" {
				p.fatalf("%c is missing", closing)
			}
			if !properties || p.version == codec.V5 {
				b = append(appendVarint(b, len(inner)), inner...)
			}
			text = rest[1:]
		case '?':
			b, text = append(b, p.bound[text[1]]...), text[2:]
		default:
			end := strings.IndexAny(text+" ", " \t(){}'\"?")
			word := text[:end]
			if word == "VV" {
				word = map[codec.Version]string{codec.V5: "05", codec.V311: "04"}[p.version]
			}
			raw, err := hex.DecodeString(word)
			if err != nil {
				p.fatalf("%q: %v", word, err)
			}
			b, text = append(b, raw...), text[end:]
		}
	}
}

// quoted returns a text in quotes, and how long it is with them. It knows the escapes of Go.
func (p *player) quoted(text string) (s string, n int) {
	p.t.Helper()
	end := 1 + strings.IndexByte(text[1:], text[0])
	if end == 0 {
		p.fatalf("a quote is missing")
	}
	s, err := strconv.Unquote(`"` + text[1:end] + `"`)
	if err != nil {
		p.fatalf("%s: %v", text[:end+1], err)
	}
	return s, end + 1
}

func appendVarint(b []byte, n int) []byte {
	for ; n > 127; n >>= 7 {
		b = append(b, byte(n)|0x80)
	}
	return append(b, byte(n))
}

// matches reports whether the body of a packet is what the text says.
func (p *player) matches(got []byte, text string) bool {
	p.t.Helper()
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimSpace(text) {
		switch {
		case text == "*":
			return true
		case text == "+":
			return len(got) == 0 || p.version == codec.V5 && (got[0] == 0 || got[0] == 0x10) && (len(got) == 1 || len(got) == 2 && got[1] == 0)
		case strings.HasPrefix(text, "{*}"):
			text = text[3:]
			if p.version != codec.V5 {
				continue
			}
			n, size := varint(got)
			if size == 0 || len(got) < size+n {
				return false
			}
			got = got[size+n:]
		case text[0] == '?':
			if len(got) < 2 {
				return false
			}
			if p.bound[text[1]] == nil {
				p.bound[text[1]] = bytes.Clone(got[:2])
			}
			if !bytes.HasPrefix(got, p.bound[text[1]]) {
				return false
			}
			got, text = got[2:], text[2:]
		default:
			part := token(text)
			want := p.bytes(part)
			if !bytes.HasPrefix(got, want) {
				return false
			}
			got, text = got[len(want):], text[len(part):]
		}
	}
	return len(got) == 0
}

// token returns the first part of a text: a text in quotes, brackets with what is in them, or digits.
func token(text string) string {
	switch text[0] {
	case '"', '\'':
		return text[:2+strings.IndexByte(text[1:], text[0])]
	case '{':
		return text[:1+strings.IndexByte(text, '}')]
	}
	return text[:strings.IndexAny(text+" ", " \t{'\"?*")]
}

func varint(b []byte) (n, size int) {
	for i, c := range b {
		if n |= int(c&0x7F) << (7 * i); c < 0x80 {
			return n, i + 1
		}
	}
	return 0, 0
}
