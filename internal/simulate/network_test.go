package simulate_test

import (
	"context"
	"net"
	"slices"
	"sync"
	"syscall"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// network is what clients can reach: hosts, each of which leads to a server. There is one of both, or several hosts lead to
// one server, as in a cluster whose nodes share all sessions, or each host has a server of its own, which knows nothing of
// the others: their sessions, subscriptions, retained messages and limits are separate.
type network struct {
	s       *simulation
	hosts   []string
	servers []*server

	mu   sync.Mutex // guards what is below
	down map[string]bool
}

// server is a broker, by its number.
type server struct {
	*mqtttest.Broker
	number int
}

func newNetwork(s *simulation) *network {
	n := &network{s: s, hosts: []string{"s0"}, down: make(map[string]bool)}
	r, servers := s.random(forNetwork), 1
	switch r.IntN(4) {
	case 0:
		n.hosts = []string{"s0", "s1", "s2"}
	case 1:
		n.hosts, servers = []string{"s0", "s1"}, 2
	}
	opts := s.brokerOptions(s.random(forBroker))
	for i := range servers {
		server := &server{mqtttest.NewBroker(s.t, opts...), i}
		server.Intercept(func(clientID string, outbound bool, p codec.Packet) bool {
			return s.witness.see(i, clientID, outbound, p)
		})
		n.servers = append(n.servers, server)
	}
	return n
}

// apart reports whether each host has a server of its own.
func (n *network) apart() bool { return len(n.servers) > 1 }

// serverOf returns the server to which a host leads.
func (n *network) serverOf(host string) *server {
	return n.servers[slices.Index(n.hosts, host)%len(n.servers)]
}

// hostsFor returns the hosts that a client is told of, the first of which it tries first. A mortal that uses servers that are
// apart stays with one: the session of an earlier process at the other server is not the one that it would have to go on with.
// A store belongs to one host.
func (n *network) hostsFor(c *simulated) []string {
	first := c.number % len(n.hosts)
	if n.apart() && c.mortal || c.stored {
		return n.hosts[first : first+1]
	}
	return append(slices.Clone(n.hosts[first:]), n.hosts[:first]...)
}

// dial connects a client to a host.
func (n *network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	down := n.down[host]
	n.mu.Unlock()
	if down || host == nowhere {
		return nil, syscall.ECONNREFUSED
	}
	return n.serverOf(host).DialContext(ctx, network, address)
}

// setDown makes hosts unreachable, or reachable again. Connections to the servers that they lead to break.
func (n *network) setDown(down bool, hosts ...string) {
	n.mu.Lock()
	for _, host := range hosts {
		n.down[host] = down
	}
	n.mu.Unlock()
	if !down {
		return
	}
	for _, host := range hosts {
		n.serverOf(host).Cut()
	}
}

// each calls f for every server.
func (n *network) each(f func(*server)) {
	for _, server := range n.servers {
		f(server)
	}
}

// refer lets a server add a Server Reference to its word that another server should be used, until remove is called. It names
// host, except to clients that have to stay.
func (n *network) refer(host string) (remove func()) {
	var removes []func()
	n.each(func(server *server) {
		removes = append(removes, server.Intercept(func(clientID string, outbound bool, p codec.Packet) bool {
			if outbound && n.mayGo(clientID, host) {
				setReference(p, host)
			}
			return true
		}))
	})
	return func() {
		for _, remove := range removes {
			remove()
		}
	}
}

// nowhere is a host that does not exist.
const nowhere = "nowhere"

// mayGo reports whether a client knows a host. It may go nowhere, because it comes back.
func (n *network) mayGo(clientID, host string) bool {
	return host == nowhere || slices.ContainsFunc(n.s.clients, func(c *simulated) bool {
		return c.id == clientID && slices.Contains(n.hostsFor(c), host)
	})
}

func setReference(p codec.Packet, host string) {
	switch p := p.(type) {
	case *codec.Connack:
		if isRedirect(p.Code) {
			p.Properties.ServerReference = host
		}
	case *codec.Disconnect:
		if isRedirect(p.Code) {
			p.ServerReference = host
		}
	}
}

func isRedirect(code codec.ReasonCode) bool {
	return code == codec.ReasonCode(mqtt.UseAnotherServer) || code == codec.ReasonCode(mqtt.ServerMoved)
}
