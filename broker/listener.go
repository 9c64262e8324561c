package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
)

const (
	connectTimeout = 10 * time.Second // from the connection to the end of CONNECT, TLS and the upgrade included
	writeTimeout   = 20 * time.Second // without a byte taken
	lingerTimeout  = time.Second      // for the client to take what was sent last
	writeChunk     = 64 << 10

	// turnedAway is how many connections beyond max-connections are told so. More are closed without a word.
	turnedAway = 64
)

// listener accepts connections for the engine, and puts TLS and WebSocket between the network and MQTT.
type listener struct {
	config Listener
	log    *slog.Logger
	socket net.Listener

	patience time.Duration // for CONNECT
	crowd    *crowd

	tls atomic.Pointer[tls.Config] // replaced by reload; nil without ssl

	mu      sync.Mutex // guards the fields below
	sockets map[*socket]struct{}
	closed  bool

	running sync.WaitGroup // the accept loop and the connections; grows only with mu held and closed false
	stop    chan struct{}  // closed with closed
}

// listen opens the address. [MQTT-4.2.0-1] [MQTT311-7.1.1-1]
func listen(ctx context.Context, config Listener, log *slog.Logger, patience time.Duration) (*listener, error) {
	l := newListener(config, log, patience)
	s, err := new(net.ListenConfig).Listen(ctx, config.network(), config.Bind)
	if err != nil {
		return nil, listenError(config, err)
	}
	l.socket = s
	return l, nil
}

func newListener(config Listener, log *slog.Logger, patience time.Duration) *listener {
	return &listener{
		config: config, log: log, patience: patience, crowd: newCrowd(maxStrangers, config.MaxConnectRate),
		sockets: map[*socket]struct{}{}, stop: make(chan struct{}),
	}
}

// serve accepts connections until the listener is closed.
func (l *listener) serve(e *engine.Engine) {
	if !l.enter() {
		return
	}
	defer l.running.Done()
	if l.config.Type == "ws" {
		l.serveWebSocket(e)
		return
	}
	for {
		s, err := l.Accept()
		if err != nil {
			return
		}
		go l.serveConn(e, s.(*socket), l.secure(s))
	}
}

// enter adds to running unless the listener is closed.
func (l *listener) enter() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.running.Add(1)
	}
	return !l.closed
}

// Accept waits for a connection and enters it into running and sockets. Errors that pass, such as of too many open files,
// are waited out.
func (l *listener) Accept() (net.Conn, error) {
	for {
		if !l.crowd.await(l.stop) {
			return nil, net.ErrClosed
		}
		c, err := l.socket.Accept()
		if err == nil {
			l.crowd.accepted()
			if s := l.admit(c); s != nil {
				return s, nil
			}
		}
		l.crowd.leave()
		switch {
		case err == nil:
		case errors.Is(err, net.ErrClosed):
			return nil, err
		default:
			l.log.Error("cannot accept connections", "error", err)
			select {
			case <-l.stop:
				return nil, net.ErrClosed
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

// admit counts a connection, or closes it and returns nil.
func (l *listener) admit(c net.Conn) *socket {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := l.config.MaxConnections
	if l.closed || most > 0 && len(l.sockets) >= most+turnedAway {
		c.Close()
		return nil
	}
	s := &socket{Conn: c, listener: l, surplus: most > 0 && len(l.sockets) >= most}
	c.SetReadDeadline(time.Now().Add(l.patience))
	l.sockets[s] = struct{}{}
	l.running.Add(1)
	return s
}

// forget undoes admit.
func (l *listener) forget(s *socket) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sockets, s)
	l.running.Done()
}

// secure adds TLS to a connection, if the listener has it.
func (l *listener) secure(c net.Conn) net.Conn {
	if config := l.tls.Load(); config != nil {
		return tls.Server(c, config)
	}
	return c
}

// serveConn gives a connection to the engine and sees it off.
func (l *listener) serveConn(e *engine.Engine, s *socket, c net.Conn) {
	defer s.bury()
	conn := &conn{Conn: c, socket: s}
	err := e.Serve(conn, engine.Peer{Listener: l.config.Name, Surplus: s.surplus, Connected: conn.connected})
	l.log.Debug("connection ended", "listener", l.config.Name, "from", s.RemoteAddr().String(), "error", err)
	conn.CloseWrite()
}

// serveWebSocket accepts connections and upgrades them.
func (l *listener) serveWebSocket(e *engine.Engine) {
	upgrader := websocket.Upgrader{
		// Old clients offer the second one alone. [MQTT-6.0.0-3] [MQTT-6.0.0-4] [MQTT311-6.0.0-3] [MQTT311-6.0.0-4]
		Subprotocols: []string{"mqtt", "mqttv3.1"},
		CheckOrigin:  l.config.admitsOrigin,
	}
	server := &http.Server{
		ReadHeaderTimeout: l.patience,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(l.log.Handler(), slog.LevelDebug),
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, socketKey{}, c) },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			s := socketOf(r.Context().Value(socketKey{}).(net.Conn))
			ws, err := upgrader.Upgrade(w, r, nil)
			if err != nil {
				l.log.Debug("not a WebSocket connection", "listener", l.config.Name, "from", r.RemoteAddr, "error", err)
				return
			}
			s.SetReadDeadline(time.Now().Add(l.patience))
			l.serveConn(e, s, &wsConn{Conn: ws.NetConn(), ws: ws})
		}),
	}
	server.SetKeepAlivesEnabled(false)
	server.Serve(webListener{l})
}

type socketKey struct{}

// socketOf returns the socket below a connection.
func socketOf(c net.Conn) *socket {
	if t, ok := c.(*tls.Conn); ok {
		c = t.NetConn()
	}
	return c.(*socket)
}

// webListener is the listener as the HTTP server sees it: with TLS.
type webListener struct{ *listener }

func (l webListener) Accept() (net.Conn, error) {
	c, err := l.listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.secure(c), nil
}

func (l webListener) Addr() net.Addr { return l.socket.Addr() }
func (l webListener) Close() error   { return nil }

// url is where clients connect.
func (l *listener) url() string {
	return l.config.scheme() + "://" + l.socket.Addr().String()
}

// shut stops accepting. Connections live on.
func (l *listener) shut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.stop)
		l.socket.Close()
	}
}

// each calls f with every connection.
func (l *listener) each(f func(*socket)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s := range l.sockets {
		f(s)
	}
}
