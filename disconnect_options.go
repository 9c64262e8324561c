package mqtt

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// DisconnectOption is an option of Disconnect in MQTT 5: ReasonCode, KeepSession, *DisconnectProperties.
type DisconnectOption interface {
	disconnectV5(*codec.Disconnect) error
}

type keepSession time.Duration

// KeepSession sets the Session Expiry Interval that counts after the disconnect (section 3.14.2.2.2), in whole seconds;
// 0 ends the session. It has no effect on a session whose interval was 0 in CONNECT, which always ends.
func KeepSession(d time.Duration) DisconnectOption { return keepSession(d) }

func (k keepSession) disconnectV5(p *codec.Disconnect) error {
	if err := wholeSeconds("KeepSession", time.Duration(k), math.MaxUint32); err != nil {
		return err
	}
	seconds := uint32(time.Duration(k) / time.Second)
	p.SessionExpiry = &seconds
	return nil
}

// disconnectV5 accepts the reason codes that a client may send: 0x00; 0x04, after which the server publishes the will;
// and some failures.
func (r ReasonCode) disconnectV5(p *codec.Disconnect) error {
	switch r {
	case NormalDisconnection, DisconnectWithWill, UnspecifiedError, MalformedPacket, ProtocolError,
		ImplementationSpecificError, TopicNameInvalid, ReceiveMaximumExceeded, TopicAliasInvalid, PacketTooLarge,
		MessageRateTooHigh, QuotaExceeded, AdministrativeAction, PayloadFormatInvalid:
		p.Code = codec.ReasonCode(r)
		return nil
	}
	return fmt.Errorf("mqtt: Disconnect: a client cannot say %v", r) // [MQTT-3.14.2-1]
}

func (d *DisconnectProperties) disconnectV5(p *codec.Disconnect) error {
	if d != nil {
		p.ReasonString, p.UserProperties = d.ReasonString, d.UserProperties
	}
	return nil
}

// farewell makes the DISCONNECT that the options ask for.
func (c *config) farewell(opts []DisconnectOption) (*codec.Disconnect, error) {
	var p codec.Disconnect
	for _, opt := range opts {
		if opt == nil {
			continue
		}
		if err := opt.disconnectV5(&p); err != nil {
			return nil, err
		}
	}
	if p.SessionExpiry != nil && *p.SessionExpiry > 0 && c.sessionExpiry == 0 {
		return nil, errors.New("mqtt: KeepSession: the session was to end with the connection") // [MQTT-3.14.2.2.2]
	}
	if _, err := p.Append(nil, c.version); err != nil {
		return nil, fmt.Errorf("mqtt: Disconnect: %w", err)
	}
	return &p, nil
}
