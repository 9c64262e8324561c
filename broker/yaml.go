package broker

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// ReadConfig reads a configuration file in YAML, with the keys of HBMQTT's. What the file does not say is as in
// DefaultConfig, but if there is a password-file and no word about clients without a user name, they are refused. An
// error is one line that names the file, the line and the key.
func ReadConfig(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, err
	}
	c, err := ParseConfig(text)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", path, err)
	}
	for i := range c.Listeners {
		if l := &c.Listeners[i]; l.where != "" {
			l.where = path + ": " + l.where
		}
	}
	return c, nil
}

// ParseConfig is ReadConfig for a text.
func ParseConfig(text []byte) (Config, error) {
	root, err := parseYAML(text)
	if err != nil {
		return Config{}, err
	}
	p := parser{config: DefaultConfig()}
	if root != nil {
		if err := p.file(value{Node: root, line: root.Line}); err != nil {
			return Config{}, err
		}
	}
	if err := p.config.check(); err != nil {
		return Config{}, err
	}
	return p.config, nil
}

// parseYAML returns the root of the one document in text, or nil if there is nothing but comments.
func parseYAML(text []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(text))
	var document yaml.Node
	switch err := d.Decode(&document); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("not YAML: %s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is a second document; keep one")
	}
	root := document.Content[0]
	if root.Tag == "!!null" {
		return nil, nil
	}
	return root, nil
}

// value is a node of the file and where it is.
type value struct {
	*yaml.Node
	path string
	line int // of its key
}

func (v value) where() string { return fmt.Sprintf("line %d: %s", v.line, cmp.Or(v.path, "the file")) }

func (v value) errorf(format string, args ...any) error {
	return fmt.Errorf("%s: %s", v.where(), fmt.Sprintf(format, args...))
}

// parser puts a file into a configuration.
type parser struct {
	config       Config
	anonymousSet bool // allow-anonymous was given
}

func (p *parser) warn(v value, text string) {
	p.config.Warnings = append(p.config.Warnings, v.where()+": "+text)
}

// setter takes the value of a key.
type setter func(value) error

// fields are the keys of a mapping. A file may have - for _ and _ for - in every one: HBMQTT's own documents do.
type fields map[string]setter

func (p *parser) file(root value) error {
	c := &p.config
	err := p.mapping(root, fields{
		"listeners":                p.listeners,
		"timeout-disconnect-delay": seconds(&c.TimeoutDisconnectDelay),
		"sys_interval":             seconds(&c.SysInterval),
		"max-packet-size":          integer(&c.MaxPacketSize),
		"max-queued-messages":      integer(&c.MaxQueuedMessages),
		"max-queued-bytes":         integer(&c.MaxQueuedBytes),
		"max-memory":               integer(&c.MaxMemory),
		"overflow":                 word(&c.Overflow),
		"persistence-sync":         word(&c.PersistenceSync),
		"persistence-file":         text(&c.PersistenceFile),
		"metrics-bind":             text(&c.MetricsBind),
		"auth":                     p.auth,
		"topic-check":              p.topicCheck,
		"plugins":                  list(&c.Plugins),
	})
	if err == nil && c.Auth.PasswordFile != "" && !p.anonymousSet {
		c.Auth.AllowAnonymous = false
	}
	return err
}

func (p *parser) auth(v value) error {
	auth := &p.config.Auth
	return p.mapping(v, fields{
		"allow-anonymous": p.allowAnonymous,
		"password-file":   text(&auth.PasswordFile),
		"acl-file":        text(&auth.ACLFile),
		"plugins":         list(&auth.Plugins),

		"max-failed-attempts": integer(&auth.MaxFailedAttempts),
	})
}

// allowAnonymous knows one value more than other booleans: HBMQTT's manual has "true / false", which HBMQTT takes for
// true.
func (p *parser) allowAnonymous(v value) error {
	p.anonymousSet = true
	if v.Value == "true / false" {
		p.config.Auth.AllowAnonymous = true
		p.warn(v, `"true / false" is taken for true, as HBMQTT does; write one of them`)
		return nil
	}
	return boolean(&p.config.Auth.AllowAnonymous)(v)
}

func (p *parser) topicCheck(v value) error {
	var enabled bool
	var plugins []string
	var topics TopicCheck
	err := p.mapping(v, fields{
		"enabled":     boolean(&enabled),
		"plugins":     list(&plugins),
		"acl":         p.filters(&topics.Subscribe),
		"publish-acl": p.filters(&topics.Publish),
	})
	if err != nil {
		return err
	}
	for _, name := range plugins {
		if name != "topic_acl" {
			return v.errorf("plugins: there is no plugin %q; the nearest is topic_acl", name)
		}
	}
	if enabled {
		p.config.Auth.Topics = &topics
	}
	return nil
}

// filters reads lists of topic filters by user name.
func (p *parser) filters(into *map[string][]string) setter {
	return func(v value) error {
		*into = map[string][]string{}
		return p.each(v, func(name string, v value) error {
			var filters []string
			if err := list(&filters)(v); err != nil {
				return err
			}
			for _, f := range filters {
				if err := checkFilter(f); err != nil {
					return v.errorf("%v", err)
				}
			}
			(*into)[name] = filters
			return nil
		})
	}
}

// listeners reads the section of that name. What "default" says holds for all the others; it is a listener itself if it
// has an address, which the others do not inherit.
func (p *parser) listeners(v value) error {
	base := Listener{Type: "tcp"}
	err := p.each(v, func(name string, v value) error {
		if name != "default" {
			return nil
		}
		return p.listener(&base, name, v)
	})
	if err != nil {
		return err
	}
	p.config.Listeners = nil
	return p.each(v, func(name string, v value) error {
		l := base
		switch {
		case name != "default":
			l.Bind = ""
			if err := p.listener(&l, name, v); err != nil {
				return err
			}
		case l.Bind == "":
			return nil
		}
		p.config.Listeners = append(p.config.Listeners, l)
		return nil
	})
}

func (p *parser) listener(l *Listener, name string, v value) error {
	l.Name, l.where = name, v.where()
	inherited := l.CertFile
	err := p.mapping(v, fields{
		"bind":                text(&l.Bind),
		"type":                text(&l.Type),
		"max-connections":     connections(&l.MaxConnections),
		"max-connect-rate":    integer(&l.MaxConnectRate),
		"ssl":                 boolean(&l.SSL),
		"cafile":              text(&l.CAFile),
		"capath":              text(&l.CAPath),
		"cadata":              text(&l.CAData),
		"certfile":            text(&l.CertFile),
		"keyfile":             text(&l.KeyFile),
		"require-certificate": boolean(&l.RequireCertificate),
		"origins":             list(&l.Origins),

		"use-identity-as-username":     boolean(&l.UseIdentityAsUsername),
		"require-username-as-clientid": boolean(&l.RequireUsernameAsClientID),
	})
	if l.CertFile != inherited && !l.SSL && name != "default" {
		p.warn(v, "has a certfile but no ssl: on, so it is not encrypted")
	}
	return err
}

// each calls f with each key of a mapping. No key may be there twice, but capath: HBMQTT's manual has it twice in its
// examples.
func (p *parser) each(v value, f func(key string, v value) error) error {
	if v.Kind != yaml.MappingNode {
		return v.errorf("must be keys with values")
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(v.Content); i += 2 {
		key, node := v.Content[i], v.Content[i+1]
		if node.Kind == yaml.AliasNode {
			node = node.Alias
		}
		path := strings.TrimPrefix(v.path+"."+key.Value, ".")
		v := value{Node: node, path: path, line: key.Line}
		if seen[key.Value] && key.Value != "capath" {
			return v.errorf("is there twice; keep one")
		}
		seen[key.Value] = true
		if err := f(key.Value, v); err != nil {
			return err
		}
	}
	return nil
}

// mapping reads a mapping whose keys are known.
func (p *parser) mapping(v value, known fields) error {
	seen := map[string]bool{}
	return p.each(v, func(key string, v value) error {
		set, key := known.find(key)
		again := seen[key]
		seen[key] = true
		switch {
		case again && key == "capath":
			p.warn(v, "is there twice; the last one counts, as in HBMQTT")
			return set(v)
		case again:
			return v.errorf("is there twice, in two spellings; keep one")
		case set != nil:
			return set(v)
		case key == "<<":
			return v.errorf("merging is not supported; what all listeners share goes into listeners.default")
		case known["bind"] != nil && v.Kind == yaml.MappingNode:
			// HBMQTT's manual has a listener inside of another, which HBMQTT does not look at.
			p.warn(v, "a listener inside of another is ignored, as in HBMQTT; indent it like the others")
			return nil
		}
		return v.errorf("unknown key; the nearest is %s", nearest(key, slices.Collect(maps.Keys(known))))
	})
}

// find returns the setter of a key and the key as we spell it, or nil and the key.
func (f fields) find(key string) (setter, string) {
	for _, spelling := range []string{key, strings.ReplaceAll(key, "_", "-"), strings.ReplaceAll(key, "-", "_")} {
		if f[spelling] != nil {
			return f[spelling], spelling
		}
	}
	return nil, key
}

// nearest returns the one of some words that takes the fewest edits to make from word.
func nearest(word string, of []string) string {
	return slices.MinFunc(of, func(a, b string) int {
		return cmp.Or(distance(word, a)-distance(word, b), strings.Compare(a, b))
	})
}

// distance is the number of letters to insert, remove or replace to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func (v value) isEmpty() bool { return v.Kind != yaml.ScalarNode || v.Tag == "!!null" || v.Value == "" }

func text(into *string) setter {
	return func(v value) error {
		if v.isEmpty() {
			return v.errorf("needs a text")
		}
		*into = v.Value
		return nil
	}
}

func list(into *[]string) setter {
	return func(v value) error {
		if v.Kind != yaml.SequenceNode {
			return v.errorf("needs a list, such as [a, b]")
		}
		*into = []string{}
		for _, item := range v.Content {
			if item.Kind == yaml.AliasNode {
				item = item.Alias
			}
			var s string
			if err := text(&s)(value{Node: item, path: v.path, line: item.Line}); err != nil {
				return err
			}
			*into = append(*into, s)
		}
		return nil
	}
}

func boolean(into *bool) setter {
	return func(v value) error {
		switch strings.ToLower(v.Value) {
		case "true", "on", "yes":
			*into = true
		case "false", "off", "no":
			*into = false
		default:
			return v.errorf("%q is neither true nor false", v.Value)
		}
		return nil
	}
}

func integer(into *int) setter {
	return func(v value) error {
		n, err := strconv.Atoi(v.Value)
		if err != nil {
			return v.errorf("%q is not a whole number", v.Value)
		}
		*into = n
		return nil
	}
}

// word takes one of the words that check knows.
func word[W ~string](into *W) setter {
	return func(v value) error {
		*into = W(v.Value)
		return nil
	}
}

// connections takes HBMQTT's -1 for no limit too.
func connections(into *int) setter {
	return func(v value) error {
		err := integer(into)(v)
		if *into == -1 {
			*into = 0
		}
		return err
	}
}

func seconds(into *time.Duration) setter {
	return func(v value) error {
		n, err := strconv.ParseFloat(v.Value, 64)
		if err != nil || math.IsNaN(n) || math.Abs(n) > math.MaxUint32 {
			return v.errorf("%q is not a number of seconds", v.Value)
		}
		*into = time.Duration(n * float64(time.Second))
		return nil
	}
}
