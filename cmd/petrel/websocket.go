package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/transport"
)

// webFlags say how to get through the web.
type webFlags struct {
	headers headers
	proxy   string
}

func (w *webFlags) group() *group {
	g := newGroup("WebSocket and proxies")
	w.headers.Header = http.Header{}
	g.Var(&w.headers, "header", "HTTP header of the request for a WebSocket; may be repeated")
	g.Var(&jsonHeaders{&w.headers}, "extra-headers", "more of them, as a `JSON` object of names and values")
	g.StringVar(&w.proxy, "proxy", "", "`URL` of a proxy, http, https or socks5, or \"none\" (default as HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say)")
	return g
}

func (w *webFlags) options(o *options, server string) error {
	if err := w.proxyOption(o); err != nil {
		return err
	}
	if len(w.headers.Header) == 0 {
		return nil
	}
	if u, err := transport.ParseURL(server); err == nil && u.Scheme != "ws" && u.Scheme != "wss" {
		return usagef("--header and --extra-headers are for WebSocket, which %s:// is not: give a URL of ws:// or wss://", u.Scheme)
	}
	o.add(mqtt.WithHeader(w.headers.Header))
	return nil
}

func (w *webFlags) proxyOption(o *options) error {
	switch w.proxy {
	case "":
	case "none":
		o.add(mqtt.WithProxy(nil))
	default:
		u, err := url.Parse(w.proxy)
		if err != nil {
			return usagef("--proxy is not a URL; special characters in a password are written as %%XX")
		}
		o.add(mqtt.WithProxy(u))
	}
	return nil
}

// headers is a flag, to be repeated, for HTTP headers.
type headers struct{ http.Header }

func (h *headers) Type() string   { return "NAME:VALUE" }
func (h *headers) String() string { return "" }

func (h *headers) Set(text string) error {
	name, value, found := strings.Cut(text, ":")
	if !found {
		return errors.New("must be NAME:VALUE")
	}
	return h.add(strings.TrimSpace(name), strings.TrimSpace(value))
}

func (h *headers) add(name, value string) error {
	if name == "" || strings.ContainsFunc(name, notInToken) || strings.ContainsFunc(value, unicode.IsControl) {
		return errors.New("not a header that HTTP may have")
	}
	h.Header.Add(name, value)
	return nil
}

// notInToken reports whether the name of a header may not have r (RFC 9110 section 5.6.2).
func notInToken(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
}

// jsonHeaders is a flag for headers in a JSON object, as HBMQTT has it.
type jsonHeaders struct{ headers *headers }

func (j *jsonHeaders) Type() string   { return "JSON" }
func (j *jsonHeaders) String() string { return "" }

func (j *jsonHeaders) Set(text string) error {
	var all map[string]string
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return errors.New(`must be a JSON object of names and values: {"Authorization": "Bearer …"}`)
	}
	var err error
	for name, value := range all {
		err = errors.Join(err, j.headers.add(name, value))
	}
	return err
}
