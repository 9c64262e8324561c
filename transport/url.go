package transport

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// scheme is what the URLs of a scheme may have.
type scheme struct {
	port      string // the default port; none if the URL has a path in place of a host
	tls       bool
	webSocket bool // then it may have a path and a query besides the host
}

var schemes = map[string]scheme{
	"mqtt":  {port: "1883"},
	"mqtts": {port: "8883", tls: true},
	"ws":    {port: "80", webSocket: true},
	"wss":   {port: "443", tls: true, webSocket: true},
	"unix":  {},
}

// aliases are other names of schemes.
var aliases = map[string]string{"tcp": "mqtt", "ssl": "mqtts", "tls": "mqtts"}

// ParseURL returns the URL of a server. The text is a URL, or a host or host:port, which mean mqtt://. An IPv6 address
// without a port needs no brackets.
//
// The schemes are mqtt, mqtts, ws, wss and unix; tcp stands for mqtt, ssl and tls for mqtts, and the URL returned has
// the name that they stand for. A URL may have a user name and password, and one without a port means 1883, 8883, 80 or
// 443 by its scheme. Only those of ws and wss may have a path and a query. A unix URL has the path of the socket and no
// host: unix:///absolute/path or unix:relative/path. No URL may have a fragment.
//
// The URL's String is again a text that ParseURL accepts, with the same result. No error contains the password or the
// query.
func ParseURL(host string) (*url.URL, error) {
	u, err := parse(host)
	if err == nil {
		u, err = normalise(u)
	}
	if err != nil {
		return nil, fmt.Errorf("transport: server %s: %w", shown(host), err)
	}
	return u, nil
}

// shown is how an error shows a URL or host: without its query, and not at all where it may have a password. A URL with
// a / or # in its password parses as something else, so that url.Redacted would not find it.
func shown(host string) string {
	if strings.Contains(host, "@") {
		return "with a user name"
	}
	rest, _, found := strings.Cut(host, "?")
	if found {
		rest += "?***"
	}
	return strconv.Quote(rest)
}

func parse(host string) (*url.URL, error) {
	if !strings.Contains(host, "://") && !isUnix(host) {
		var err error
		if host, err = fromHost(host); err != nil {
			return nil, err
		}
	}
	u, err := url.Parse(host)
	switch {
	case err == nil:
		return u, nil
	case strings.Contains(host, "@"): // the cause may quote a part of the password
		return nil, errors.New("not a URL; special characters in a user name or password are written as %XX")
	}
	return nil, errors.Unwrap(err) // without the URL, which a *url.Error repeats
}

func isUnix(host string) bool {
	scheme, _, found := strings.Cut(host, ":")
	return found && strings.EqualFold(scheme, "unix")
}

// fromHost makes a URL of a host or host:port. A percent sign is right in the zone of an IPv6 address only.
func fromHost(host string) (string, error) {
	if strings.Contains(host, "@") {
		return "", errors.New("a user name and password need a URL: mqtt://user:password@host")
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is6() {
		host = "[" + host + "]"
	}
	return "mqtt://" + strings.ReplaceAll(host, "%", "%25"), nil
}

// normalise returns a copy of u in the one form that u's meaning has, or what is wrong with it. The error does not
// contain u, and so no password.
func normalise(u *url.URL) (*url.URL, error) {
	n := *u
	if name, found := aliases[n.Scheme]; found {
		n.Scheme = name
	}
	s, found := schemes[n.Scheme]
	switch {
	case !found:
		return nil, fmt.Errorf("unknown scheme %q: it must be mqtt, mqtts, ws, wss or unix", n.Scheme)
	case n.Fragment != "":
		return nil, errors.New("must not have a fragment")
	case !s.webSocket && (n.RawQuery != "" || n.ForceQuery):
		return nil, fmt.Errorf("a URL of scheme %s must not have a query", n.Scheme)
	case s.port == "":
		return &n, normalisePath(&n)
	case !s.webSocket && n.Path != "" && n.Path != "/":
		return nil, fmt.Errorf("a URL of scheme %s must not have a path", n.Scheme)
	}
	if !s.webSocket {
		n.Path = ""
	}
	if n.RawPath != n.EscapedPath() {
		n.RawPath = "" // it says nothing that Path does not
	}
	if err := normaliseHost(&n); err != nil {
		return nil, err
	}
	if _, err := url.Parse(n.String()); err != nil { // and shows it, whoever parses it later
		return nil, errors.New("a character in it needs escaping")
	}
	return &n, nil
}

func normaliseHost(u *url.URL) error {
	host, bracketed := u.Hostname(), strings.HasPrefix(u.Host, "[")
	a, err := netip.ParseAddr(host)
	switch {
	case host == "":
		return errors.New("the host is missing")
	case bracketed && (err != nil || !a.Is6() || strings.ContainsFunc(a.Zone(), reserved)):
		return errors.New("an invalid IPv6 address is in brackets")
	case !bracketed && strings.Contains(host, ":"):
		return errors.New("an IPv6 address needs brackets, and another host has no colon")
	case !bracketed && strings.Contains(host, "%"):
		return errors.New("the host has an invalid character")
	case u.Port() == "":
		u.Host = strings.TrimSuffix(u.Host, ":")
		return nil
	}
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || n == 0 {
		return errors.New("the port is not in the range 1 to 65535")
	}
	return nil
}

// reserved reports whether r may not stand in the zone of an IPv6 address (RFC 6874 section 2).
func reserved(r rune) bool {
	letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	return !letter && !('0' <= r && r <= '9') && !strings.ContainsRune("-._~", r)
}

// normalisePath puts the path of a unix socket into u.Path, where it is decoded.
func normalisePath(u *url.URL) error {
	if u.Host != "" {
		return errors.New("a URL of scheme unix must not have a host: unix:///absolute/path or unix:relative/path")
	}
	if u.Opaque != "" {
		path, err := url.PathUnescape(u.Opaque)
		if err != nil {
			return errors.New("the path has an invalid escape sequence")
		}
		u.Path, u.Opaque = path, ""
	}
	if u.Path == "" {
		return errors.New("the path is missing")
	}
	u.RawPath = ""
	u.OmitHost = u.Path[0] != '/' // else String would make a host of the first part of a relative path
	return nil
}

// address returns the host:port of a normalised URL.
func address(server *url.URL) string {
	port := server.Port()
	if port == "" {
		port = schemes[server.Scheme].port
	}
	return net.JoinHostPort(server.Hostname(), port)
}

// Redact returns the text of a URL for logs and errors. It shows neither the user name, which for some servers is a
// token, nor the password, nor the query: *** stands for them. A URL with a slash too few or too many has its password
// in its path, so one with an @ there is not shown at all.
func Redact(u *url.URL) string {
	n := *u
	n.User, n.RawQuery, n.ForceQuery, n.Fragment = nil, "", false, ""
	text := n.String()
	if strings.Contains(text, "@") {
		return u.Scheme + "://***"
	}
	if u.User != nil {
		text = strings.Replace(text, "://", "://***@", 1)
	}
	if u.RawQuery != "" {
		text += "?***"
	}
	return text
}
