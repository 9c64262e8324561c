package mqtttest

import (
	"errors"
	"fmt"

	"github.com/petrel-mqtt/mqtt/codec"
)

// Violation is something that a conformant client does not do.
type Violation struct {
	ClientID string // "" before CONNECT
	Rule     string // the statement, "MQTT-3.1.0-2", or the section where none is numbered, "3.3.2.3.4"
	Detail   string
	code     codec.ReasonCode // to end the connection with
}

// String says it in a line.
func (v Violation) String() string {
	return fmt.Sprintf("client %q: %s [%s]", v.ClientID, v.Detail, v.Rule)
}

// Violations returns what clients have done that the specification forbids, in order.
func (b *Broker) Violations() []Violation {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Violation(nil), b.violations...)
}

// report keeps a violation and fails the test.
func (b *Broker) report(v Violation) {
	b.mu.Lock()
	b.violations = append(b.violations, v)
	b.mu.Unlock()
	if b.tb != nil {
		b.tb.Errorf("mqtttest: %s", v)
	}
}

// complain fails the test because of a mistake in it.
func (b *Broker) complain(format string, args ...any) {
	if b.tb != nil {
		b.tb.Errorf("mqtttest: "+format, args...)
	}
}

// violationOf makes a violation of an error of the codec.
func violationOf(err error) (Violation, bool) {
	var flaw *codec.Error
	if !errors.As(err, &flaw) {
		return Violation{}, false
	}
	detail := flaw.Detail
	if flaw.Packet != 0 {
		detail = flaw.Packet.String() + ": " + detail
	}
	return Violation{Rule: flaw.Rule, Detail: detail, code: flaw.Code}, true
}

// foul is a violation: a rule for each version and the reason code to end the connection with.
func (c *conn) foul(code codec.ReasonCode, v5, v311, detail string) *Violation {
	return &Violation{Rule: c.rule(v5, v311), Detail: detail, code: code}
}

// rule picks the statement of the connection's version.
func (c *conn) rule(v5, v311 string) string {
	if c.version == codec.V5 {
		return v5
	}
	return v311
}
