package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/transport"
)

// advice says what to do about an error, "" if there is nothing general to say.
func advice(err error) string {
	var connect *mqtt.ConnectError
	if errors.As(err, &connect) {
		return connectAdvice(err)
	}
	switch {
	case errors.Is(err, mqtt.QoSNotSupported):
		return "try a lower -q"
	case errors.Is(err, mqtt.RetainNotSupported):
		return "the server keeps no messages: leave out -r"
	case errors.Is(err, mqtt.NotAuthorized):
		return "the server's access rules do not allow it to this user (-u)"
	}
	return ""
}

func connectAdvice(err error) string {
	var (
		name      *net.DNSError
		authority x509.UnknownAuthorityError
		host      x509.HostnameError
		record    tls.RecordHeaderError
		packet    *mqtt.PacketError
		proxy     *transport.ProxyError
	)
	switch {
	case errors.Is(err, mqtt.BadUserNameOrPassword), errors.Is(err, mqtt.NotAuthorized):
		return "give a user name and password with -u and -P, PETREL_PASSWORD or --password-file"
	case errors.Is(err, mqtt.UnsupportedProtocolVersion):
		return "try another version with -V 3.1.1 or -V 5"
	case errors.Is(err, mqtt.ClientIdentifierNotValid):
		return "give another client identifier with -i"
	case errors.Is(err, mqtt.BadAuthenticationMethod):
		return "the server does not know this method: leave out --auth"
	case errors.As(err, &proxy):
		return "is the proxy that --proxy or the environment names right? --proxy none does without"
	case errors.Is(err, syscall.ECONNREFUSED):
		return `is a server running there? "petrel broker" starts one here`
	case errors.As(err, &name):
		return "is the host name in --url right?"
	case errors.As(err, &authority):
		return "name the authority's certificate with --ca-file, or trust anybody with --insecure"
	case errors.As(err, &host):
		return "name the host that the certificate is for with --servername"
	case errors.As(err, &packet), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), strings.HasSuffix(err.Error(), "the server closed the connection"):
		return "does it speak MQTT on this port, with or without TLS and WebSocket as the URL says?"
	case errors.As(err, &record):
		return "the server does not speak TLS on this port: try mqtt:// or ws://"
	}
	return ""
}
