package engine

import (
	"fmt"
	"log/slog"
	"unicode/utf8"
)

// logged is a client in the log.
type logged struct{ *Client }

// LogValue groups what identifies a client.
func (c logged) LogValue() slog.Value {
	attrs := []slog.Attr{slog.Any("id", brief(c.ID))}
	if c.Remote != nil {
		attrs = append(attrs, slog.String("from", c.Remote.String()))
	}
	if c.Username != "" {
		attrs = append(attrs, slog.Any("user", brief(c.Username)))
	}
	return slog.GroupValue(attrs...)
}

// brief is a string that a client chose, in the log. A long one is cut: identifiers, topics and filters may have 64 KiB.
type brief string

// briefBound is how many bytes of it are logged.
const briefBound = 200

func (s brief) LogValue() slog.Value {
	if len(s) <= briefBound {
		return slog.StringValue(string(s))
	}
	n := briefBound
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return slog.StringValue(fmt.Sprintf("%s… (%d bytes)", s[:n], len(s)))
}
