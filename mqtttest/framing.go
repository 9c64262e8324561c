package mqtttest

import (
	"crypto/tls"
	"net"
)

// framing is what lies between MQTT and the connection of the network.
type framing struct {
	tls, webSocket bool
}

// over returns what speaks MQTT on a connection.
func (f framing) over(nc net.Conn, s *settings) net.Conn {
	if f.tls {
		nc = tls.Server(nc, s.serverTLS())
	}
	if f.webSocket {
		nc = &webSocket{Conn: nc, settings: s}
	}
	return nc
}
