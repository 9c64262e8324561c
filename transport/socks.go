package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"strconv"
)

// Numbers of SOCKS 5 (RFC 1928) and of its authentication by user name and password (RFC 1929).
const (
	socksVersion     = 5
	socksConnect     = 1
	socksNoAuth      = 0x00
	socksPassword    = 0x02
	socksNoMethod    = 0xFF
	socksIPv4        = 1
	socksName        = 3
	socksIPv6        = 4
	passwordVersion  = 1
	socksLongestName = 255
)

// SOCKSError is the reply of a SOCKS proxy that has not made a connection (RFC 1928 section 6).
type SOCKSError byte

func (e SOCKSError) Error() string {
	texts := [...]string{
		1: "general failure", 2: "not allowed by the proxy's rules", 3: "network unreachable", 4: "host unreachable",
		5: "connection refused", 6: "time to live expired", 7: "command not supported", 8: "address type not supported",
	}
	if int(e) < len(texts) && texts[e] != "" {
		return "the proxy says: " + texts[e]
	}
	return fmt.Sprintf("the proxy says: failure %d", byte(e))
}

// socks5 asks a SOCKS proxy for a connection to address. It reads not a byte more than the proxy's answers.
func socks5(conn io.ReadWriter, proxy *url.URL, address string) error {
	request, err := socksRequest(address)
	if err != nil {
		return err
	}
	if err := socksGreet(conn, proxy.User); err != nil {
		return err
	}
	if _, err := conn.Write(request); err != nil {
		return err
	}
	return socksReply(conn)
}

// socksGreet agrees on a method of authentication, and goes through it.
func socksGreet(conn io.ReadWriter, user *url.Userinfo) error {
	greeting := []byte{socksVersion, 1, socksNoAuth}
	if user != nil {
		greeting = []byte{socksVersion, 2, socksNoAuth, socksPassword}
	}
	if _, err := conn.Write(greeting); err != nil {
		return err
	}
	var answer [2]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	switch method := answer[1]; {
	case answer[0] != socksVersion:
		return errors.New("this is no SOCKS 5 proxy")
	case method == socksNoAuth:
		return nil
	case method == socksPassword && user != nil:
		return socksAuthenticate(conn, user)
	case method == socksNoMethod && user == nil:
		return errors.New("the proxy wants a user name and password")
	case method == socksNoMethod:
		return errors.New("the proxy takes no user name and password")
	default:
		return fmt.Errorf("the proxy chose authentication method %d, which was not offered", method)
	}
}

func socksAuthenticate(conn io.ReadWriter, user *url.Userinfo) error {
	name := user.Username()
	password, _ := user.Password()
	if len(name) == 0 || len(name) > socksLongestName || len(password) == 0 || len(password) > socksLongestName {
		return fmt.Errorf("the user name or the password has not 1 to %d bytes", socksLongestName)
	}
	request := append([]byte{passwordVersion, byte(len(name))}, name...)
	request = append(append(request, byte(len(password))), password...)
	if _, err := conn.Write(request); err != nil {
		return err
	}
	var answer [2]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if answer[1] != 0 {
		return errors.New("the proxy refuses the user name and password")
	}
	return nil
}

// socksRequest makes the request for a connection. Names are for the proxy to look up.
func socksRequest(address string) ([]byte, error) {
	host, portText, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return nil, err
	}
	request := []byte{socksVersion, socksConnect, 0}
	switch ip, err := netip.ParseAddr(host); {
	case err != nil && len(host) > socksLongestName:
		return nil, fmt.Errorf("a host name of more than %d bytes", socksLongestName)
	case err != nil:
		request = append(append(request, socksName, byte(len(host))), host...)
	case ip.Is4():
		request = append(append(request, socksIPv4), ip.AsSlice()...)
	default:
		request = append(append(request, socksIPv6), ip.AsSlice()...)
	}
	return binary.BigEndian.AppendUint16(request, uint16(port)), nil
}

// socksReply reads the reply to it.
func socksReply(conn io.Reader) error {
	var reply [4]byte
	if _, err := io.ReadFull(conn, reply[:]); err != nil {
		return err
	}
	switch {
	case reply[0] != socksVersion:
		return errors.New("this is no SOCKS 5 proxy")
	case reply[1] != 0:
		return SOCKSError(reply[1])
	}
	var length int64 // of the address that the proxy uses, which is of no interest
	switch reply[3] {
	case socksIPv4:
		length = 4
	case socksIPv6:
		length = 16
	case socksName:
		var n [1]byte
		if _, err := io.ReadFull(conn, n[:]); err != nil {
			return err
		}
		length = int64(n[0])
	default:
		return fmt.Errorf("the proxy's reply has an address of type %d", reply[3])
	}
	_, err := io.CopyN(io.Discard, conn, length+2) // and the port
	return err
}
