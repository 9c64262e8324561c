package outbox

import (
	"fmt"
	"strings"
)

// Table is the name of an outbox's table, with or without a schema: "petrel_outbox", "billing.outbox". Each of the
// two parts is a letter or underscore, then letters, digits and underscores, at most 40 characters.
type Table string

// DefaultTable is the table of Publish, PostgreSQL, SQLite and the migrations.
const DefaultTable Table = "petrel_outbox"

// query puts the table's name into a statement.
func (t Table) query(text string) (string, error) {
	if !t.valid() {
		return "", fmt.Errorf("outbox: %q is no name of a table", string(t))
	}
	_, name, found := strings.Cut(string(t), ".")
	if !found {
		name = string(t)
	}
	return strings.NewReplacer("{table}", string(t), "{name}", name).Replace(text), nil
}

func (t Table) valid() bool {
	parts := strings.Split(string(t), ".")
	for _, p := range parts {
		if p == "" || len(p) > 40 || p[0] >= '0' && p[0] <= '9' || strings.ContainsFunc(p, foreign) {
			return false
		}
	}
	return len(parts) <= 2
}

const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"

func foreign(r rune) bool { return !strings.ContainsRune(letters, r) }
