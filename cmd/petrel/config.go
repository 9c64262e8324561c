package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/petrel-mqtt/mqtt"
)

// publishDefaults are what a configuration file says of messages that are published, for where no flag does.
type publishDefaults struct {
	qos    *mqtt.QoS
	retain *bool
	topics map[string]topicDefaults
}

type topicDefaults struct {
	QoS    *level `yaml:"qos"`
	Retain *bool  `yaml:"retain"`
}

// UnmarshalYAML lets files say what flags say.
func (l *level) UnmarshalYAML(n *yaml.Node) error { return l.Set(n.Value) }

// rivals are flags that say the same thing in two ways: where one is given, lesser sources must not give the others.
var rivals = [][]string{
	{"url", "host"}, {"url", "port"}, {"password", "password-file"}, {"clean", "no-clean"}, {"id", "id-prefix"},
	{"debug", "quiet"}, {"ca-file", "ca-path", "ca-data"},
}

// load sets the flags that were not given by what the environment says, and then by what the configuration file says.
func (c *connection) load(flags *pflag.FlagSet) error {
	if err := checkRivals(flags); err != nil {
		return err
	}
	if err := loadEnvironment(flags); err != nil {
		return err
	}
	if c.configFile == "" {
		return nil
	}
	return c.loadFile(flags)
}

func checkRivals(flags *pflag.FlagSet) error {
	for _, group := range rivals {
		given := slices.DeleteFunc(slices.Clone(group), func(name string) bool { return !flags.Changed(name) })
		if len(given) > 1 {
			return usagef("--%s and --%s exclude each other: give one", given[0], given[1])
		}
	}
	return nil
}

// overridden returns the flags that a lesser source must not set.
func overridden(flags *pflag.FlagSet) map[string]bool {
	taken := map[string]bool{}
	flags.Visit(func(f *pflag.Flag) {
		taken[f.Name] = true
		for _, group := range rivals {
			if slices.Contains(group, f.Name) {
				for _, name := range group {
					taken[name] = true
				}
			}
		}
	})
	return taken
}

func variable(name string) string {
	return "PETREL_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

func loadEnvironment(flags *pflag.FlagSet) error {
	taken := overridden(flags)
	var errs error
	flags.VisitAll(func(f *pflag.Flag) {
		text, found := os.LookupEnv(variable(f.Name))
		if f.Annotations[settable] == nil || taken[f.Name] || !found {
			return
		}
		if err := flags.Set(f.Name, text); err != nil {
			errs = errors.Join(errs, usagef("%s=%q: %s", variable(f.Name), text, cause(err)))
		}
	})
	return errs
}

// cause is what a flag says of a value, without what pflag puts around it.
func cause(err error) string {
	if m := invalidValue.FindStringSubmatch(err.Error()); m != nil {
		return m[3]
	}
	return err.Error()
}

// loadFile reads a YAML file whose keys are names of flags, and HBMQTT's keys for messages to be published.
func (c *connection) loadFile(flags *pflag.FlagSet) error {
	text, err := os.ReadFile(c.configFile)
	if err != nil {
		return usagef("--config: %w", err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return usagef("%s: %s", c.configFile, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(document.Content) == 0 {
		return nil // an empty file
	}
	root := document.Content[0]
	if root.Kind != yaml.MappingNode {
		return usagef("%s:%d: not a mapping of keys to values", c.configFile, root.Line)
	}
	s := settings{connection: c, flags: flags, taken: overridden(flags), seen: map[string]bool{}}
	for i := 0; i < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		if err := s.set(key.Value, value); err != nil {
			return usagef("%s:%d: %s: %w", c.configFile, key.Line, key.Value, err)
		}
	}
	return checkRivals(flags)
}

// settings are a configuration file being read.
type settings struct {
	connection *connection
	flags      *pflag.FlagSet
	taken      map[string]bool // flags that the command line or the environment has set
	seen       map[string]bool // keys, by the flags they stand for
}

func (s *settings) set(key string, value *yaml.Node) error {
	name := string(normalise(nil, key))
	if s.seen[name] {
		return errors.New("given twice")
	}
	s.seen[name] = true
	if value.Kind == yaml.ScalarNode && value.Tag == "!!null" {
		return errors.New("has no value")
	}
	d := &s.connection.defaults
	switch name {
	case "default-qos":
		q, err := parseLevel(value.Value)
		d.qos = &q
		return err
	case "default-retain":
		return decode(value, &d.retain)
	case "topics":
		return s.topics(value)
	}
	f := s.flags.Lookup(name)
	if f == nil || f.Annotations[settable] == nil {
		return fmt.Errorf("unknown key%s", didYouMean(key, s.keys(key)))
	}
	if s.taken[name] {
		return nil
	}
	return s.setFlag(f, value)
}

func (s *settings) setFlag(f *pflag.Flag, value *yaml.Node) error {
	switch {
	case f.Value.Type() == "bool":
		var b *bool
		if err := decode(value, &b); err != nil {
			return err
		}
		return s.flags.Set(f.Name, fmt.Sprint(*b))
	case value.Kind == yaml.SequenceNode:
		if !repeats(f) {
			return errors.New("takes one value, not a list")
		}
		for _, item := range value.Content {
			if err := s.setFlag(f, item); err != nil {
				return err
			}
		}
		return nil
	case value.Kind != yaml.ScalarNode:
		return errors.New("takes a single value")
	}
	if err := s.flags.Set(f.Name, value.Value); err != nil {
		return fmt.Errorf("%q: %s", value.Value, cause(err))
	}
	return nil
}

// repeats reports whether a flag may be given several times.
func repeats(f *pflag.Flag) bool {
	switch f.Value.(type) {
	case pflag.SliceValue, *properties:
		return true
	}
	return false
}

// topics reads the defaults of single topics.
func (s *settings) topics(value *yaml.Node) error {
	if value.Kind != yaml.MappingNode {
		return errors.New("not a mapping of topics to qos and retain")
	}
	s.connection.defaults.topics = map[string]topicDefaults{}
	for i := 0; i < len(value.Content); i += 2 {
		topic, fields := value.Content[i].Value, value.Content[i+1]
		if fields.Kind != yaml.MappingNode {
			return fmt.Errorf("%s: not a mapping: give qos and retain", topic)
		}
		for j := 0; j < len(fields.Content); j += 2 {
			if name := fields.Content[j].Value; name != "qos" && name != "retain" {
				return fmt.Errorf("%s: unknown key %s%s", topic, name, didYouMean(name, []string{"qos", "retain"}))
			}
		}
		var t topicDefaults
		if err := decode(fields, &t); err != nil {
			return fmt.Errorf("%s: %w", topic, err)
		}
		s.connection.defaults.topics[topic] = t
	}
	return nil
}

// keys returns the known keys, written with underscores if the unknown one may be so.
func (s *settings) keys(unknown string) []string {
	keys := []string{"default-qos", "default-retain", "topics", "auto-reconnect"}
	s.flags.VisitAll(func(f *pflag.Flag) {
		if f.Annotations[settable] != nil {
			keys = append(keys, f.Name)
		}
	})
	if !strings.Contains(unknown, "-") {
		for i := range keys {
			keys[i] = strings.ReplaceAll(keys[i], "-", "_")
		}
	}
	return keys
}

// decode decodes a value, with an error of one line that does not name our types.
func decode[T any](value *yaml.Node, into *T) error {
	err := value.Decode(into)
	var wrong *yaml.TypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &wrong):
		return fmt.Errorf("%q is not of the right type", value.Value)
	}
	return err
}

// checkVersion refuses flags that the version of the protocol has nothing for.
func checkVersion(flags *pflag.FlagSet, version protocol) error {
	if version == v5 {
		return nil
	}
	var err error
	flags.Visit(func(f *pflag.Flag) {
		if f.Annotations[mqtt5] != nil && err == nil {
			err = usagef("--%s is of MQTT 5: leave it out, or -V 3.1.1", f.Name)
		}
	})
	return err
}
