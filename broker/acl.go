package broker

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/petrel-mqtt/mqtt/internal/topic"
)

// acl says which topics are whose. A topic that no rule names is nobody's. It does not change.
type acl struct {
	users    map[string][]rule // by user name; of clients without one under ""
	patterns []rule            // for everybody, with %u and %c to be replaced
}

// rule allows or denies access to the topics of a filter.
type rule struct {
	filter       string
	read, write  bool
	deny         bool
	substitution bool // the filter has %u or %c in it
}

// readACL reads a file in the format of Mosquitto's acl_file. An error is one line that names the file and the line.
func readACL(path string) (*acl, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	a, err := parseACL(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return a, nil
}

func parseACL(content []byte) (*acl, error) {
	content, err := unmarked(content)
	if err != nil {
		return nil, err
	}
	a := &acl{users: map[string][]rule{}}
	user, n := "", 0
	for line := range bytes.Lines(content) {
		n++
		if err := a.line(strings.TrimSpace(string(line)), &user); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	return a, nil
}

// line takes one line; topic lines are for the user of the last user line.
func (a *acl) line(line string, user *string) error {
	if line == "" || line[0] == '#' {
		return nil
	}
	word, rest, _ := strings.Cut(line, " ")
	rest = strings.TrimSpace(rest)
	switch word {
	case "user":
		if rest == "" {
			return errors.New("user: the name is missing")
		}
		*user = rest
		return nil
	case "topic", "pattern":
		r, err := parseRule(rest)
		if err != nil {
			return fmt.Errorf("%s: %w", word, err)
		}
		if word == "topic" {
			a.users[*user] = append(a.users[*user], r)
			return nil
		}
		r.substitution = strings.Contains(r.filter, "%u") || strings.Contains(r.filter, "%c")
		a.patterns = append(a.patterns, r)
		return nil
	}
	return fmt.Errorf("%q is not known; the nearest is %s", word, nearest(word, []string{"user", "topic", "pattern"}))
}

// parseRule takes what stands after topic or pattern: a filter, or an access and a filter.
func parseRule(text string) (rule, error) {
	r := rule{read: true, write: true}
	access, filter, found := strings.Cut(text, " ")
	if !found {
		access, filter = "readwrite", text
	}
	switch access {
	case "readwrite":
	case "read":
		r.write = false
	case "write":
		r.read = false
	case "deny":
		r.deny = true
	default: // the filter has a space in it
		filter = text
	}
	r.filter = strings.TrimSpace(filter)
	return r, checkFilter(r.filter)
}

func checkFilter(filter string) error {
	if filter == "" {
		return errors.New("the topic is missing")
	}
	if err := topic.CheckFilter(filter); err != nil {
		return fmt.Errorf("%q is not a topic filter: %w", filter, err)
	}
	return nil
}

// newACL turns HBMQTT's topic-check into rules.
func newACL(t *TopicCheck) *acl {
	a := &acl{users: map[string][]rule{}}
	add := func(lists map[string][]string, r rule) {
		for user, filters := range lists {
			if user == anonymous {
				user = ""
			}
			for _, r.filter = range filters {
				a.users[user] = append(a.users[user], r)
			}
		}
	}
	add(t.Subscribe, rule{read: true})
	add(t.Publish, rule{write: true})
	if t.Publish == nil {
		a.patterns = append(a.patterns, rule{filter: "#", write: true})
	}
	return a
}

// allows reports whether a client may do what it wants with a topic, or with the topics of a filter. Rules that deny
// come before those that allow. A subscription is allowed if it can lead to anything: each message is checked again.
func (a *acl) allows(c Client, access Access, name string) bool {
	allowed := false
	for _, rules := range [][]rule{a.users[c.Username], a.patterns} {
		for _, r := range rules {
			switch {
			case !r.covers(c, access, name):
			case !r.deny:
				allowed = true
			case access != Subscribe:
				return false
			}
		}
	}
	return allowed
}

// covers reports whether a rule says something about the access.
func (r rule) covers(c Client, access Access, name string) bool {
	if access == Publish && !r.write || access != Publish && !r.read {
		return false
	}
	filter := r.filter
	if r.substitution {
		if strings.Contains(filter, "%u") && (c.Username == "" || !substitutable(c.Username)) ||
			strings.Contains(filter, "%c") && !substitutable(c.ID) {
			return r.deny
		}
		filter = strings.NewReplacer("%u", c.Username, "%c", c.ID).Replace(filter)
		if filter[0] == '$' && r.filter[0] != '$' {
			return r.deny // a client must not call itself $SYS
		}
	}
	if access == Subscribe {
		return overlap(filter, name)
	}
	return topic.Match(filter, name)
}

// substitutable reports whether a name may stand in a pattern: one with a wildcard in it would widen it, and one with a /
// would move its levels, so that user a/b would have what is below b of user a.
func substitutable(name string) bool { return !strings.ContainsAny(name, "+#/") }

// namesUsers reports whether there is a rule that depends on a user name.
func (a *acl) namesUsers() bool {
	for user := range a.users {
		if user != "" {
			return true
		}
	}
	return a.hasPattern("%u")
}

// hasPattern reports whether some pattern has this in it.
func (a *acl) hasPattern(what string) bool {
	return slices.ContainsFunc(a.patterns, func(r rule) bool { return strings.Contains(r.filter, what) })
}

// overlap reports whether some topic name matches both filters.
func overlap(a, b string) bool {
	wild := func(f string) bool { return f[0] == '+' || f[0] == '#' }
	if a[0] == '$' && wild(b) || b[0] == '$' && wild(a) {
		return false // [MQTT-4.7.2-1]
	}
	as, bs := strings.Split(a, "/"), strings.Split(b, "/")
	for i := 0; ; i++ {
		switch {
		case i == len(as) && i == len(bs):
			return true
		case i < len(as) && as[i] == "#", i < len(bs) && bs[i] == "#":
			return true
		case i == len(as) || i == len(bs):
			return false
		case as[i] != bs[i] && as[i] != "+" && bs[i] != "+":
			return false
		}
	}
}
