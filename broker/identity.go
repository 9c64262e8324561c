package broker

import "github.com/petrel-mqtt/mqtt/codec"

// identify completes who a client is, as its listener wants it, before its password is looked at. assigned says that the
// client sent no client identifier, so that the broker chooses it. The answer is Success, or the reason of a refusal.
func (l *Listener) identify(c *Client, assigned bool) codec.ReasonCode {
	if l.UseIdentityAsUsername {
		if c.Username = commonName(c); c.Username == "" {
			return codec.NotAuthorized
		}
	}
	if !l.RequireUsernameAsClientID {
		return codec.Success
	}
	if assigned {
		c.ID = c.Username
	}
	if c.Username == "" || c.ID != c.Username {
		return codec.ClientIdentifierNotValid
	}
	return codec.Success
}

// commonName returns the name in the certificate of the client; "" if there is none. The certificate has been verified.
func commonName(c *Client) string {
	if c.TLS == nil || len(c.TLS.PeerCertificates) == 0 {
		return ""
	}
	return c.TLS.PeerCertificates[0].Subject.CommonName
}
