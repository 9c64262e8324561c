package main

import (
	"strings"

	"github.com/spf13/pflag"
)

// aliases are other names of flags and keys: those of HBMQTT's, Mosquitto's and MQTTX's where ours differ.
var aliases = map[string]string{
	"uri": "url", "clean-session": "clean", "cleansession": "clean", "auto-reconnect": "reconnect",
	"cafile": "ca-file", "capath": "ca-path", "cadata": "ca-data", "certfile": "cert", "keyfile": "key",
	"max-in-flight": "max-inflight",

	"disable-clean-session": "no-clean", "filter-out": "exclude", "keepalive": "keep-alive", "null-message": "null",
	"pw": "password", "repeat-delay": "interval", "stdin-file": "stdin", "stdin-line": "stdin-lines", "tls-alpn": "alpn",
	"tls-keylog": "keylog", "will-payload": "will-message",

	"ca": "ca-file", "client-id": "id", "conn-user-properties": "connect-property", "file-read": "file", "hostname": "host",
	"maximum-reconnect-times": "reconnect-retries", "message-expiry-interval": "message-expiry", "mqtt-version": "protocol-version",
	"multiline": "stdin-lines", "payload-format-indicator": "utf8", "payload-size": "size", "rcv-max": "receive-maximum",
	"session-expiry-interval": "session-expiry", "subscription-identifier": "subscription-id",
	"will-delay-interval": "will-delay", "will-message-expiry-interval": "will-expiry",
	"will-payload-format-indicator": "will-utf8", "will-user-properties": "will-user-property", "ws-headers": "header",
}

// normalise makes underscores dashes, and aliases the names that they stand for.
func normalise(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	name = strings.ReplaceAll(name, "_", "-")
	if a, ok := aliases[name]; ok {
		name = a
	}
	return pflag.NormalizedName(name)
}
