package mqtttest

import (
	"context"
	"fmt"
	"net"
	"os"
	"syscall"
)

// Listen takes connections on a port of the loopback interface until Close, and returns its URL, "mqtt://127.0.0.1:41234",
// for programs that do not take a dialer. Like ListenTLS, ListenWS and ListenWSS, it panics if there is no port. In a
// testing/synctest bubble, virtual time stands still while something listens or waits for a real connection: use DialContext
// there.
func (b *Broker) Listen() (url string) {
	return "mqtt://" + b.listen(framing{})
}

// ListenTLS is Listen for TLS: "mqtts://127.0.0.1:41235". See Authority and ClientTLS for what makes a client trust it.
func (b *Broker) ListenTLS() (url string) {
	return "mqtts://" + b.listen(framing{tls: true})
}

// ListenWS is Listen for WebSocket: "ws://127.0.0.1:41236/mqtt". Every path will do; see Upgrade.
func (b *Broker) ListenWS() (url string) {
	return "ws://" + b.listen(framing{webSocket: true}) + "/mqtt"
}

// ListenWSS is Listen for WebSocket over TLS: "wss://127.0.0.1:41237/mqtt".
func (b *Broker) ListenWSS() (url string) {
	return "wss://" + b.listen(framing{tls: true, webSocket: true}) + "/mqtt"
}

func (b *Broker) listen(f framing) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic("mqtttest: " + err.Error())
	}
	address = l.Addr().String()
	if !b.addListener(l) { // after Close nobody answers
		_ = l.Close()
		return address
	}
	go func() {
		if err := b.accept(l, f); err != nil {
			b.complain("%v", err)
		}
	}()
	return address
}

// DialContext connects a client to the broker through memory. Network and address do not matter. It fits the dialer option
// of clients. The error is connection refused (syscall.ECONNREFUSED) while the broker is offline or closed, or ctx's error.
func (b *Broker) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	return b.dial(ctx, framing{})
}

// DialTLS is DialContext for a client that speaks TLS on the connection it gets. The broker's certificate is for "localhost",
// so a URL should name that host.
func (b *Broker) DialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	return b.dial(ctx, framing{tls: true})
}

// DialWS is DialContext for a client that speaks WebSocket on the connection it gets.
func (b *Broker) DialWS(ctx context.Context, network, address string) (net.Conn, error) {
	return b.dial(ctx, framing{webSocket: true})
}

// DialWSS is DialContext for a client that speaks WebSocket over TLS on the connection it gets.
func (b *Broker) DialWSS(ctx context.Context, network, address string) (net.Conn, error) {
	return b.dial(ctx, framing{tls: true, webSocket: true})
}

func (b *Broker) dial(ctx context.Context, f framing) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, dialError(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.entrance.offline {
		return nil, dialError(syscall.ECONNREFUSED)
	}
	b.names++
	client, server := newConnection(addr(fmt.Sprintf("client:%d", b.names)), "broker:1883", b.settings.shape)
	c := b.newConn(server, f)
	go c.serve()
	return client, nil
}

func dialError(err error) error {
	return &net.OpError{Op: "dial", Net: networkName, Err: os.NewSyscallError("connect", err)}
}

// Serve accepts connections from l until Close, and then returns nil, or until accepting fails. It closes l. While the
// broker is offline, connections are closed at once.
func (b *Broker) Serve(l net.Listener) error {
	if !b.addListener(l) {
		return l.Close()
	}
	return b.accept(l, framing{})
}

// accept serves a listener that has been added.
func (b *Broker) accept(l net.Listener, f framing) error {
	defer b.removeListener(l)
	defer l.Close()
	for {
		nc, err := l.Accept()
		if err != nil && b.isClosed() {
			return nil
		}
		if err != nil {
			return err
		}
		if c := b.admit(nc, f); c != nil {
			go c.serve()
		}
	}
}

func (b *Broker) addListener(l net.Listener) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.entrance.listeners[l] = true
	b.wg.Add(1)
	return true
}

func (b *Broker) removeListener(l net.Listener) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.entrance.listeners, l)
	b.wg.Done()
}

func (b *Broker) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

// ServeConn serves a client on nc until the connection has ended, and closes nc.
func (b *Broker) ServeConn(nc net.Conn) {
	if c := b.admit(nc, framing{}); c != nil {
		c.serve()
	}
}

// admit returns nil, and closes nc, if the broker takes no connections.
func (b *Broker) admit(nc net.Conn, f framing) *conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.entrance.offline {
		_ = nc.Close()
		return nil
	}
	return b.newConn(nc, f)
}
