package transport

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// network is a network in which each address has a fate.
type network struct {
	fates map[string]fate

	mu     sync.Mutex
	dialed []string // mu
	closed int      // mu
}

// fate is what becomes of a dial: after a time it fails, or there is a connection.
type fate struct {
	after time.Duration
	err   error
}

func (n *network) dial(ctx context.Context, address string) (net.Conn, error) {
	n.mu.Lock()
	n.dialed = append(n.dialed, address)
	n.mu.Unlock()
	f := n.fates[address]
	timer := time.NewTimer(f.after)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if f.err != nil {
		return nil, f.err
	}
	return &counted{address: address, network: n}, nil
}

// counted is a connection that counts its end.
type counted struct {
	net.Conn
	address string
	network *network
}

func (c *counted) Close() error {
	c.network.mu.Lock()
	c.network.closed++
	c.network.mu.Unlock()
	return nil
}

func TestRace(t *testing.T) {
	refused := errors.New("refused")
	dead := fate{after: time.Hour, err: errors.New("timed out")}
	for name, c := range map[string]struct {
		fates  map[string]fate
		won    string
		took   time.Duration
		dialed string
	}{
		"the first answers at once":         {map[string]fate{}, "a", 0, "a"},
		"the first is dead":                 {map[string]fate{"a": dead}, "b", headStart, "a b"},
		"two are dead":                      {map[string]fate{"a": dead, "b": dead}, "c", 2 * headStart, "a b c"},
		"refusals cost no head start":       {map[string]fate{"a": {err: refused}, "b": {err: refused}}, "c", 0, "a b c"},
		"the first is slow, but faster":     {map[string]fate{"a": {after: 300 * time.Millisecond}, "b": {after: 200 * time.Millisecond}}, "a", 300 * time.Millisecond, "a b"},
		"the second overtakes the first":    {map[string]fate{"a": {after: time.Second}, "b": {after: 100 * time.Millisecond}}, "b", 350 * time.Millisecond, "a b"},
		"a failure brings the third before": {map[string]fate{"a": dead, "b": {after: 10 * time.Millisecond, err: refused}}, "c", 260 * time.Millisecond, "a b c"},
		"nobody answers in the time of ctx": {map[string]fate{"a": dead, "b": dead, "c": dead}, "", time.Minute, "a b c"},
		"all refuse":                        {map[string]fate{"a": {err: refused}, "b": {err: refused}, "c": {err: refused}}, "", 0, "a b c"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{fates: c.fates}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				began := time.Now()
				conn, err := race(ctx, []string{"a", "b", "c"}, n.dial)
				won := ""
				if err == nil {
					won = conn.(*counted).address
				}
				if took := time.Since(began); won != c.won || took != c.took || strings.Join(n.dialed, " ") != c.dialed {
					t.Errorf("%q won after %v, having dialed %v; want %q after %v, having dialed %s", won, took, n.dialed, c.won, c.took, c.dialed)
				}
				if c.won == "" && (err == nil || strings.Count(err.Error(), ";") != 2) {
					t.Errorf("the error does not name what became of all three: %v", err)
				}
			})
		})
	}
}

// TestRaceClosesLateConnections has two connections made at the same time: one is used, and the other one closed.
func TestRaceClosesLateConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{}
		late := make(chan struct{})
		conn, err := race(t.Context(), []string{"a", "b"}, func(ctx context.Context, address string) (net.Conn, error) {
			if address == "a" { // it is made although it is not wanted any more
				<-ctx.Done()
				close(late)
			}
			return n.dial(context.WithoutCancel(ctx), address)
		})
		<-late
		if err != nil || conn.(*counted).address != "b" || n.closed != 1 {
			t.Errorf("%v, %v; %d connections were closed, want 1", conn, err, n.closed)
		}
	})
}

func TestInterleave(t *testing.T) {
	var ips []netip.Addr
	for _, text := range []string{"::1", "::2", "::3", "10.0.0.1", "::ffff:10.0.0.2"} {
		ips = append(ips, netip.MustParseAddr(text))
	}
	var got []string
	for _, ip := range interleave(ips) {
		got = append(got, ip.String())
	}
	if want := []string{"::1", "10.0.0.1", "::2", "10.0.0.2", "::3"}; !slices.Equal(got, want) {
		t.Errorf("the order is %v, want %v", got, want)
	}
}

// TestDoubtfulAddressesComeLast has an address that accepts connections and never confirms one.
func TestDoubtfulAddressesComeLast(t *testing.T) {
	var a Addresses
	at := func(text string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(text)) }
	all := []string{"10.0.0.1:1883", "10.0.0.2:1883", "10.0.0.3:1883"}
	for _, step := range []struct {
		doubt, confirm string
		want           string
	}{
		{"", "", "1 2 3"},
		{"10.0.0.1:1883", "", "2 3 1"},
		{"10.0.0.2:1883", "", "3 1 2"},
		{"10.0.0.3:1883", "", "1 2 3"}, // all the same again
		{"", "10.0.0.2:1883", "2 1 3"},
		{"", "10.0.0.1:1883", "1 2 3"},
	} {
		if step.doubt != "" {
			a.doubt(at(step.doubt))
		}
		if step.confirm != "" {
			a.Confirm(at(step.confirm))
		}
		got := strings.NewReplacer("10.0.0.", "", ":1883", "").Replace(strings.Join(a.order(all), " "))
		if got != step.want {
			t.Errorf("after doubt %q and confirmation %q the order is %s, want %s", step.doubt, step.confirm, got, step.want)
		}
	}
}

// TestDialAny dials a name with an address that nobody listens at.
func TestDialAny(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	d := Dialer{Addresses: &Addresses{}}
	conn, err := d.netDial(t.Context(), "tcp", net.JoinHostPort("localhost", port)) // ::1 too on most systems
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if conn.RemoteAddr().String() != l.Addr().String() || !d.Addresses.doubtful[l.Addr().String()] {
		t.Errorf("connected to %v, doubtful are %v", conn.RemoteAddr(), d.Addresses.doubtful)
	}
	if _, err := d.netDial(t.Context(), "tcp", "no such host:1883"); err == nil || !strings.Contains(err.Error(), "lookup no such host") {
		t.Errorf("a name without addresses: %v", err)
	}
}
