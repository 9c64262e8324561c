package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
)

// ProxyFromEnvironment returns the proxy that the environment says for a server, nil for none. It reads HTTPS_PROXY for
// servers of the schemes mqtts and wss, HTTP_PROXY for mqtt and ws, ALL_PROXY for what these leave open, and NO_PROXY, or
// the same in lower case, as net/http does: a proxy is a URL, or a host:port for http. A program that has REQUEST_METHOD
// in its environment is a CGI program, whose HTTP_PROXY may come from whom it serves, and does not count.
//
// NO_PROXY is a list of hosts that are reached directly, with commas between them: names, which stand for what is below
// them too, or, with a dot before them, for that alone; addresses; blocks of addresses as 10.0.0.0/8; any of them but a
// block with a :port; or * for all. localhost and addresses of this machine are always reached directly.
func ProxyFromEnvironment(server *url.URL) (*url.URL, error) {
	var name, value string
	switch {
	case schemes[server.Scheme].tls:
		name, value = variable("HTTPS_PROXY")
	case os.Getenv("REQUEST_METHOD") == "":
		name, value = variable("HTTP_PROXY")
	}
	if value == "" {
		name, value = variable("ALL_PROXY")
	}
	if value == "" || direct(address(server)) {
		return nil, nil
	}
	proxy, err := parseProxy(value)
	if err != nil {
		return nil, fmt.Errorf("environment variable %s: %w", name, err)
	}
	return proxy, nil
}

// variable returns an environment variable, whose name may be in lower case.
func variable(name string) (as, value string) {
	for _, as := range []string{name, strings.ToLower(name)} {
		if value := os.Getenv(as); value != "" {
			return as, value
		}
	}
	return name, ""
}

// parseProxy returns the URL of a proxy. The error does not contain it, because it may have a password.
func parseProxy(value string) (*url.URL, error) {
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	proxy, err := url.Parse(value)
	if err != nil {
		return nil, errors.New("not a URL")
	}
	return proxy, checkProxy(proxy)
}

// direct reports whether NO_PROXY has a server, by its host:port.
func direct(address string) bool {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	ip, _ := netip.ParseAddr(host)
	ip = ip.Unmap()
	if host == "localhost" || ip.IsLoopback() {
		return true
	}
	_, list := variable("NO_PROXY")
	for entry := range strings.SplitSeq(strings.ToLower(list), ",") {
		if matches(strings.TrimSpace(entry), host, port, ip) {
			return true
		}
	}
	return false
}

// matches reports whether an entry of NO_PROXY is for a host; ip is the zero Addr where that is a name.
func matches(entry, host, port string, ip netip.Addr) bool {
	if entry == "*" {
		return true
	}
	if block, err := netip.ParsePrefix(entry); err == nil {
		return block.Contains(ip)
	}
	if h, p, err := net.SplitHostPort(entry); err == nil {
		if p != port {
			return false
		}
		entry = h
	}
	if other, err := netip.ParseAddr(strings.Trim(entry, "[]")); err == nil {
		return other.Unmap() == ip
	}
	name := strings.TrimPrefix(entry, "*")
	switch {
	case name == "" || ip.IsValid():
		return false
	case name[0] == '.':
		return strings.HasSuffix(host, name)
	}
	return host == name || strings.HasSuffix(host, "."+name)
}
