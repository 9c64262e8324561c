package main

import (
	"encoding/hex"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// People come with the habits of mosquitto_pub, mosquitto_sub and mqttx. What they type works here as there, or is an
// error that names the flag to use; docs/flags.md has it all in one table.

// aliases are other names of flags and keys: those of HBMQTT's, Mosquitto's and MQTTX's where ours differ.
var aliases = map[string]string{
	"uri": "url", "clean-session": "clean", "cleansession": "clean", "auto-reconnect": "reconnect",
	"cafile": "ca-file", "capath": "ca-path", "cadata": "ca-data", "certfile": "cert", "keyfile": "key",
	"max-in-flight": "max-inflight",

	"disable-clean-session": "no-clean", "filter-out": "exclude", "keepalive": "keep-alive", "null-message": "null",
	"pw": "password", "repeat-delay": "interval", "stdin-file": "stdin", "stdin-line": "stdin-lines", "tls-alpn": "alpn",
	"tls-keylog": "keylog", "will-payload": "will-message",

	"ca": "ca-file", "client-id": "id", "conn-user-properties": "connect-property", "file-read": "file", "hostname": "host",
	"maximum-reconnect-times": "reconnect-retries", "message-expiry-interval": "message-expiry", "mqtt-version": "protocol-version",
	"multiline": "stdin-lines", "payload-format-indicator": "utf8", "payload-size": "size", "rcv-max": "receive-maximum",
	"session-expiry-interval": "session-expiry", "subscription-identifier": "subscription-id",
	"will-delay-interval": "will-delay", "will-message-expiry-interval": "will-expiry",
	"will-payload-format-indicator": "will-utf8", "will-user-properties": "will-user-property", "ws-headers": "header",
}

// instead says what to use in place of a flag that other tools have and we have not. A letter is one after a single dash.
var instead = map[string]string{
	"S": "Mosquitto's look-up of SRV records is not here, give --host and --port; MQTTX's payload size is --size",
	"e": "MQTTX's message expiry is --message-expiry, mosquitto_rr's response topic is --response-topic",
	"l": "the scheme is --protocol, or the beginning of --url",
	"f": "the format is -F or --format",
	"o": "flags that are always the same go into a YAML file, for -c or --config",

	"ciphers":               "Go chooses the ciphers; --tls-version chooses the version",
	"no-tls":                "leave out the flags of TLS, or give --url mqtt://HOST",
	"psk":                   "Go's TLS has no pre-shared keys: use a certificate, --cert and --key, or a password, -u and --password-file",
	"psk-identity":          "Go's TLS has no pre-shared keys: use a certificate, --cert and --key, or a password, -u and --password-file",
	"tls-engine":            "there are no engines: keys come from files, --cert and --key",
	"tls-engine-kpass-sha1": "there are no engines: keys come from files, --cert and --key",
	"ws":                    "give the address as --url ws://HOST or wss://HOST",

	"avsc-path":             "there is no Avro: give the bytes with --encoding base64 or hex",
	"delimiter":             `-N writes no newline, and -F '%p\0' another end`,
	"dup":                   "the client sets DUP itself, where it sends a message again; -d is --debug",
	"file-save":             "--out-dir writes each message into a file of its own",
	"file-write":            "write standard output to the file, with >>; --out-dir writes a file for each message",
	"line-mode":             "-l or --stdin-lines sends each line of standard input",
	"load-options":          "-c or --config reads a YAML file",
	"no-req-problem-info":   "the server's reasons are always asked for; --quiet shows none",
	"output-mode":           "--json writes the whole message",
	"protobuf-message-name": "there is no Protocol Buffers: give the bytes with --encoding base64 or hex",
	"protobuf-path":         "there is no Protocol Buffers: give the bytes with --encoding base64 or hex",
	"reconnect-period":      "it is in seconds here: --reconnect-delay; 0 is --reconnect=false",
	"req-response-info":     "petrel request asks by itself; --response-topic says where replies go",
	"save-options":          "write the flags into a YAML file, which -c or --config reads",
	"topic-alias":           "the client chooses topic aliases itself",
	"topic-alias-maximum":   "the client chooses topic aliases itself",
	"user-properties":       "name the packet: --user-property, --connect-property or --subscribe-property",

	"count": "MQTTX's number of clients is --clients", "limit": "--count ends after so many messages of each client",
	"message-interval": "--rate says how many messages are sent in a second",
}

// mqttxShort are MQTTX's names of several letters behind one dash, and the long names that they stand for.
var mqttxShort = map[string]string{
	"-wh": "ws-headers", "-rp": "reconnect-period", "-se": "session-expiry-interval", "-up": "user-properties",
	"-Cup": "conn-user-properties", "-Wt": "will-topic", "-Wm": "will-message", "-Wq": "will-qos", "-Wr": "will-retain",
	"-Wd": "will-delay-interval", "-Wpf": "will-payload-format-indicator", "-We": "will-message-expiry-interval",
	"-Wct": "will-content-type", "-Wrt": "will-response-topic", "-Wcd": "will-correlation-data", "-Wup": "will-user-properties",
	"-so": "save-options", "-lo": "load-options", "-lm": "line-mode", "-pf": "payload-format-indicator", "-ta": "topic-alias",
	"-rt": "response-topic", "-cd": "correlation-data", "-si": "subscription-identifier", "-ct": "content-type",
	"-nl": "no-local", "-rap": "retain-as-published", "-rh": "retain-handling", "-im": "message-interval",
	"-Pp": "protobuf-path", "-Pmn": "protobuf-message-name", "-Ap": "avsc-path",
}

// properties5 are Mosquitto's names of properties behind -D and its packet, and the flags that set them.
var properties5 = map[string]string{
	"connect receive-maximum": "receive-maximum", "connect session-expiry-interval": "session-expiry",
	"connect maximum-packet-size": "maximum-packet-size", "connect user-property": "connect-property",
	"publish content-type": "content-type", "publish correlation-data": "correlation-data",
	"publish message-expiry-interval": "message-expiry", "publish payload-format-indicator": "utf8",
	"publish response-topic": "response-topic", "publish user-property": "user-property",
	"subscribe subscription-identifier": "subscription-id", "subscribe user-property": "subscribe-property",
	"will content-type": "will-content-type", "will correlation-data": "will-correlation-data",
	"will message-expiry-interval": "will-expiry", "will payload-format-indicator": "will-utf8",
	"will response-topic": "will-response-topic", "will user-property": "will-user-property",
	"will will-delay-interval": "will-delay",
}

// otherCommands are commands of other tools that we have not.
var otherCommands = map[string]string{
	"simulate": `"petrel bench pub" publishes without end, and "petrel pub --repeat 0 --interval 1 --size 100" at a pace`,
	"init":     "a configuration file is a YAML file with the names of flags, for -c",
	"ls":       `"petrel bench --help" lists what can be measured`,
	"check":    "a package manager, or go install, brings a later version",
}

// accustomed rewrites a command line that has other tools' habits into ours, and returns its command, too.
func accustomed(root *cobra.Command, args []string) (*cobra.Command, []string, error) {
	cmd, rest, err := root.Find(args)
	if err != nil || cmd.Flags().Lookup("url") == nil {
		return root, args, nil // which is seen to elsewhere
	}
	h := habits{cmd: cmd, in: rest, out: strings.Fields(cmd.CommandPath())[1:]}
	for len(h.in) > 0 && err == nil {
		err = h.word()
	}
	return cmd, append(h.out, h.in...), err
}

// habits is a command line that is being rewritten.
type habits struct {
	cmd *cobra.Command
	in  []string // what is left
	out []string
}

// word takes the next word, and those that belong to it.
func (h *habits) word() error {
	w := h.in[0]
	switch {
	case w == "--": // words follow, no flags
		h.take(len(h.in))
		return nil
	case w == "-D" || w == "--property":
		return h.property(w)
	case w == "-c" && (len(h.in) == 1 || strings.HasPrefix(h.in[1], "-")):
		h.replace(1, "--no-clean") // Mosquitto's, which has no value; ours has a file's name
		return nil
	case w == "-h" && len(h.in) > 1 && strings.HasPrefix(h.in[1], "-"):
		return usagef("-h needs a host, and %s is a flag; --help shows the flags", h.in[1])
	case mqttxShort[w] != "":
		return h.short(w)
	}
	h.take(1)
	if takesNext(h.cmd.Flags(), w) && len(h.in) > 0 {
		h.take(1)
	}
	return nil
}

func (h *habits) take(n int) {
	h.out, h.in = append(h.out, h.in[:n]...), h.in[n:]
}

// replace puts a word in place of the next n.
func (h *habits) replace(n int, by string) {
	h.out, h.in = append(h.out, by), h.in[n:]
}

// takesNext reports whether the word is a flag whose value is the next word.
func takesNext(flags *pflag.FlagSet, word string) bool {
	if name, long := strings.CutPrefix(word, "--"); long {
		f := flags.Lookup(name)
		return f != nil && f.NoOptDefVal == ""
	}
	if !strings.HasPrefix(word, "-") {
		return false
	}
	for i, letter := range word[1:] {
		f := byLetter(flags, letter)
		if f == nil {
			return false
		}
		if f.NoOptDefVal == "" {
			return i+1 == len(word)-1 // otherwise what follows in the word is the value
		}
	}
	return false
}

// byLetter returns the flag of one letter, nil if there is none.
func byLetter(flags *pflag.FlagSet, letter rune) *pflag.Flag {
	if letter >= utf8.RuneSelf { // for which pflag panics
		return nil
	}
	return flags.ShorthandLookup(string(letter))
}

// short takes MQTTX's name of several letters. Where our flags of one letter make sense of it too, nobody can know what
// was meant.
func (h *habits) short(word string) error {
	long := mqttxShort[word]
	if h.isCluster(word) {
		return usagef("%s can mean several flags here: for MQTTX's flag of this name, %s; otherwise write the letters apart", word, h.advice(long))
	}
	h.replace(1, "--"+long)
	if takesNext(h.cmd.Flags(), "--"+long) && len(h.in) > 0 {
		h.take(1)
	}
	return nil
}

// advice says what a flag of another tool is here.
func (h *habits) advice(long string) string {
	if text := instead[long]; text != "" {
		return text
	}
	return "use --" + string(normalise(nil, long))
}

// isCluster reports whether the word is flags of one letter of ours, the last one maybe with its value.
func (h *habits) isCluster(word string) bool {
	letters := word[1:]
	for i, letter := range letters {
		f := byLetter(h.cmd.Flags(), letter)
		if f == nil {
			return false
		}
		if f.NoOptDefVal == "" {
			return mayBe(f, letters[i+1:])
		}
	}
	return true
}

// mayBe reports whether a text may be the value of a flag; none means that the next word is.
func mayBe(f *pflag.Flag, text string) bool {
	switch f.Value.Type() {
	case "SECONDS":
		return text == "" || new(seconds).Set(text) == nil
	case "int":
		_, err := strconv.Atoi(text)
		return text == "" || err == nil
	}
	return true
}

// property takes Mosquitto's -D PACKET PROPERTY VALUE, or with a user property -D PACKET user-property NAME VALUE.
func (h *habits) property(flag string) error {
	if len(h.in) < 4 {
		return usagef("%s needs a packet, a property and its value, as in: %s publish content-type text/plain", flag, flag)
	}
	packet, name, value, words := h.in[1], h.in[2], h.in[3], 4
	ours := properties5[packet+" "+name]
	switch {
	case ours == "":
		return usagef("%s %s %s: there is no flag for this property; \"%s --help\" lists those of packets", flag, packet, name, h.cmd.CommandPath())
	case h.cmd.Flags().Lookup(ours) == nil:
		return usagef("%s %s %s: %s sends no %s", flag, packet, name, h.cmd.CommandPath(), strings.ToUpper(packet))
	case name == "user-property" && len(h.in) < 5:
		return usagef("%s %s user-property needs a name and a value", flag, packet)
	case name == "user-property" && strings.Contains(value, "="):
		return usagef("%s %s user-property: a name with = cannot be given", flag, packet)
	case name == "user-property":
		value, words = value+"="+h.in[4], 5
	case name == "correlation-data":
		value = "0x" + hex.EncodeToString([]byte(value)) // text, whatever it begins with
	}
	h.replace(words, "--"+ours+"="+value)
	return nil
}
