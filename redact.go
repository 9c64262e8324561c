package mqtt

import (
	"fmt"
	"strings"

	"github.com/petrel-mqtt/mqtt/transport"
)

// String describes the attempt. Its secrets are replaced by ***.
func (a Attempt) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "attempt %d", a.Number)
	if a.URL != nil {
		fmt.Fprintf(&b, " to %s", transport.Redact(a.URL))
	}
	if a.Username != "" || a.Password != "" {
		b.WriteString(" with credentials ***")
	}
	if a.LastErr != nil {
		fmt.Fprintf(&b, ", because of: %v", a.LastErr)
	}
	return b.String()
}

// Format writes String for every verb: otherwise %#v would show the secrets.
func (a Attempt) Format(f fmt.State, _ rune) { fmt.Fprint(f, a.String()) }

// MarshalText returns String, for loggers and encoding/json.
func (a Attempt) MarshalText() ([]byte, error) { return []byte(a.String()), nil }
