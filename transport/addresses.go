package transport

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// headStart is how long a connect to one address may go on before the next address is tried beside it (RFC 8305
// section 5).
const headStart = 250 * time.Millisecond

// Addresses remembers which addresses of a host's name did not lead to a working server, so that the next Dial begins
// with another one. It may be used by several goroutines. The zero value is ready to use.
type Addresses struct {
	mu       sync.Mutex
	doubtful map[string]bool // mu; remote addresses that accepted a connection and were not confirmed since
}

// Confirm says that a connection to this remote address has come to work: the server has answered the application. Until
// then an address that has accepted a connection is tried after the others.
func (a *Addresses) Confirm(remote net.Addr) {
	a.mu.Lock()
	delete(a.doubtful, remote.String())
	a.mu.Unlock()
}

// doubt notes that a connection to an address exists, and nobody knows yet whether it works.
func (a *Addresses) doubt(remote net.Addr) {
	a.mu.Lock()
	if a.doubtful == nil {
		a.doubtful = make(map[string]bool)
	}
	a.doubtful[remote.String()] = true
	a.mu.Unlock()
}

// order returns addresses in the order in which to try them: doubtful ones last, otherwise as they are.
func (a *Addresses) order(addresses []string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	later := func(address string) bool { return a.doubtful[address] }
	return slices.Concat(
		slices.DeleteFunc(slices.Clone(addresses), later),
		slices.DeleteFunc(slices.Clone(addresses), func(address string) bool { return !later(address) }))
}

// dialAny connects to one of the addresses of a host's name.
func (d *Dialer) dialAny(ctx context.Context, nd *net.Dialer, address string) (net.Conn, error) {
	addresses, err := lookUp(ctx, address)
	if err != nil || len(addresses) == 0 {
		return nd.DialContext(ctx, "tcp", address) // which makes the error
	}
	if d.Addresses != nil {
		addresses = d.Addresses.order(addresses)
	}
	conn, err := race(ctx, addresses, func(ctx context.Context, address string) (net.Conn, error) {
		return nd.DialContext(ctx, "tcp", address)
	})
	if err == nil && d.Addresses != nil {
		d.Addresses.doubt(conn.RemoteAddr())
	}
	return conn, err
}

// lookUp returns the addresses of a host:port whose host is a name, and none for one that is an address itself.
func lookUp(ctx context.Context, address string) ([]string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil, nil
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var addresses []string
	for _, ip := range interleave(ips) {
		addresses = append(addresses, netip.AddrPortFrom(ip, uint16(number)).String())
	}
	return addresses, nil
}

// interleave orders addresses so that the families take turns, beginning with the first one's (RFC 8305 section 4): a
// network without IPv6, say, then costs one head start and not one for each address.
func interleave(ips []netip.Addr) []netip.Addr {
	var first, second []netip.Addr
	for _, ip := range ips {
		ip = ip.Unmap()
		if len(first) == 0 || ip.Is4() == first[0].Is4() {
			first = append(first, ip)
		} else {
			second = append(second, ip)
		}
	}
	var mixed []netip.Addr
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			mixed = append(mixed, first[i])
		}
		if i < len(second) {
			mixed = append(mixed, second[i])
		}
	}
	return mixed
}

// race dials addresses, one more after each head start or failure, and returns the first connection that is made. When it
// returns, no other dial is under way.
func race(ctx context.Context, addresses []string, dial func(context.Context, string) (net.Conn, error)) (net.Conn, error) {
	type outcome struct {
		conn net.Conn
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outcomes := make(chan outcome)
	running := 0
	begin := func() {
		address := addresses[0]
		addresses = addresses[1:]
		running++
		go func() {
			conn, err := dial(ctx, address)
			outcomes <- outcome{conn, err}
		}()
	}
	timer := time.NewTimer(headStart)
	defer timer.Stop()

	var won net.Conn
	var failed error
	for begin(); running > 0; {
		select {
		case <-timer.C:
		case o := <-outcomes:
			running--
			switch {
			case o.err != nil:
				failed = also(failed, o.err)
			case won == nil:
				won = o.conn
				cancel()
			default:
				o.conn.Close() // it came too late
			}
		}
		if won == nil && ctx.Err() == nil && len(addresses) > 0 {
			begin()
			timer.Reset(headStart)
		}
	}
	if won == nil {
		return nil, failed
	}
	return won, nil
}

// also adds the error of one more address.
func also(failed, err error) error {
	if failed == nil {
		return err
	}
	return fmt.Errorf("%w; %w", failed, err)
}
