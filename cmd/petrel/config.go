package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
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
	qos    *mqtt.QoS
	retain *bool
}

// rivals are flags that say the same thing in two ways: where one is given, lesser sources must not give the others.
var rivals = [][]string{
	{"url", "host"}, {"url", "port"}, {"url", "unix"}, {"host", "unix"}, {"port", "unix"}, {"url", "protocol"}, {"url", "path"},
	{"unix", "protocol"}, {"unix", "path"}, {"password", "password-file"}, {"clean", "no-clean"}, {"id", "id-prefix"},
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
	if err := checkRivals(flags); err != nil {
		return usagef("environment: %w", err)
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
			errs = errors.Join(errs, usagef("%s=%s: %s", variable(f.Name), shown(f, strconv.Quote(text)), cause(err)))
		}
	})
	return errs
}

// cause is what a flag says of a value, without what pflag puts around it.
func cause(err error) string {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return wrongValue(invalid)
	}
	return err.Error()
}

// loadFile reads a YAML file whose keys are names of flags, and HBMQTT's keys for messages to be published.
func (c *connection) loadFile(flags *pflag.FlagSet) error {
	text, err := os.ReadFile(c.configFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return usagef("--config: %w; Mosquitto's -c, with which a session is kept, is --no-clean, and MQTTX's of benchmarks is --clients", err)
	case err != nil:
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
		key, value := root.Content[i], target(root.Content[i+1])
		if err := s.set(key.Value, value); err != nil {
			return usagef("%s:%d: %s: %w", c.configFile, key.Line, key.Value, err)
		}
	}
	if err := checkRivals(flags); err != nil {
		return usagef("%s: %w", c.configFile, err)
	}
	return nil
}

// target is what a YAML alias stands for, or the node itself.
func target(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
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
		d.retain = new(bool)
		return decodeBool(value, d.retain)
	case "topics":
		return s.topics(value)
	case "will":
		return s.will(value)
	}
	f := s.flags.Lookup(name)
	if f == nil || f.Annotations[settable] == nil || name == "config" {
		return fmt.Errorf("unknown key%s", didYouMean(key, s.keys(key)))
	}
	if s.taken[name] {
		return nil
	}
	return s.setFlag(f, value)
}

func (s *settings) setFlag(f *pflag.Flag, value *yaml.Node) error {
	if value.Kind != yaml.SequenceNode {
		return s.setOne(f, value)
	}
	if !repeats(f) {
		return errors.New("takes one value, not a list")
	}
	for _, item := range value.Content {
		if err := s.setOne(f, target(item)); err != nil {
			return err
		}
	}
	return nil
}

func (s *settings) setOne(f *pflag.Flag, value *yaml.Node) error {
	switch {
	case f.Value.Type() == "bool":
		var b bool
		if err := decodeBool(value, &b); err != nil {
			return err
		}
		return s.flags.Set(f.Name, strconv.FormatBool(b))
	case value.Kind != yaml.ScalarNode:
		return errors.New("takes a single value")
	}
	if err := s.flags.Set(f.Name, value.Value); err != nil {
		return fmt.Errorf("%s: %s", shown(f, strconv.Quote(value.Value)), cause(err))
	}
	return nil
}

// repeats reports whether a flag may be given several times.
func repeats(f *pflag.Flag) bool {
	switch f.Value.(type) {
	case pflag.SliceValue, *properties, *headers:
		return true
	}
	return false
}

// will reads HBMQTT's topic, message, qos and retain of the will.
func (s *settings) will(value *yaml.Node) error {
	if value.Kind != yaml.MappingNode {
		return errors.New("not a mapping: give topic, message, qos and retain")
	}
	for i := 0; i < len(value.Content); i += 2 {
		key := value.Content[i].Value
		if err := s.set("will-"+key, target(value.Content[i+1])); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	return nil
}

// topics reads the defaults of single topics.
func (s *settings) topics(value *yaml.Node) error {
	if value.Kind != yaml.MappingNode {
		return errors.New("not a mapping of topics to qos and retain")
	}
	topics := map[string]topicDefaults{}
	for i := 0; i < len(value.Content); i += 2 {
		topic := value.Content[i].Value
		t, err := readTopic(target(value.Content[i+1]))
		if _, again := topics[topic]; again {
			err = errors.New("given twice")
		}
		if err != nil {
			return fmt.Errorf("%s: %w", topic, err)
		}
		topics[topic] = t
	}
	s.connection.defaults.topics = topics
	return nil
}

func readTopic(fields *yaml.Node) (t topicDefaults, err error) {
	if fields.Kind != yaml.MappingNode {
		return t, errors.New("not a mapping: give qos and retain")
	}
	for i := 0; i < len(fields.Content) && err == nil; i += 2 {
		switch name, value := fields.Content[i].Value, target(fields.Content[i+1]); {
		case name == "qos" && t.qos != nil, name == "retain" && t.retain != nil:
			err = fmt.Errorf("%s is given twice", name)
		case name == "qos":
			var q mqtt.QoS
			q, err = parseLevel(value.Value)
			t.qos = &q
		case name == "retain":
			t.retain = new(bool)
			err = decodeBool(value, t.retain)
		default:
			err = fmt.Errorf("unknown key %s%s", name, didYouMean(name, []string{"qos", "retain"}))
		}
	}
	return t, err
}

// keys returns the known keys, written with underscores if the unknown one may be so.
func (s *settings) keys(unknown string) []string {
	keys := []string{"default-qos", "default-retain", "topics", "auto-reconnect"}
	s.flags.VisitAll(func(f *pflag.Flag) {
		if f.Annotations[settable] != nil && f.Name != "config" {
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

// decodeBool takes true and false, and what YAML 1.1 has for them: yes and no, on and off.
func decodeBool(value *yaml.Node, b *bool) error {
	if value.Decode(b) != nil {
		return fmt.Errorf("%q: must be true or false", value.Value)
	}
	return nil
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
