package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// inputFlags say what to send.
type inputFlags struct {
	message, file, lines     once
	stdinLines, stdin, empty bool
	random                   size
	encoding                 choice

	single []string // the flags that are one message
	many   []string // those that are a message per line
}

// group returns the flags, with those for many messages if wanted.
func (i *inputFlags) group(many bool) *group {
	g := newGroup("Message (one of)")
	i.single = []string{"message", "file", "stdin", "null", "size"}
	g.VarP(&i.message, "message", "m", "this `TEXT`")
	g.VarP(&i.file, "file", "f", "the content of a `FILE`, as one message; - is standard input")
	g.BoolVarP(&i.stdin, "stdin", "s", false, "all of standard input, as one message")
	g.BoolVarP(&i.empty, "null", "n", false, "an empty message")
	g.Var(&i.random, "size", "random bytes, so many: 100, 64KiB, 1MB")
	if many {
		i.many = []string{"stdin-lines", "lines"}
		g.BoolVarP(&i.stdinLines, "stdin-lines", "l", false, "each line of standard input; blank ones are skipped")
		g.Var(&i.lines, "lines", "each line of a `FILE`; blank ones are skipped")
	}
	return g
}

// encodingFlag adds the flag for how what is read is written.
func (i *inputFlags) encodingFlag(g *group) {
	i.encoding = choice{"raw", []string{"raw", "base64", "hex"}}
	g.Var(&i.encoding, "encoding", "how the message is written: raw, base64 or hex")
}

// theirEncodings are those of MQTTX's -f.
var theirEncodings = []string{"base64", "json", "hex", "binary", "cbor", "msgpack"}

// open returns the messages, and whether there may be many. Reading fails while they are taken.
func (i *inputFlags) open(cmd *cobra.Command) (messages iter.Seq2[[]byte, error], many bool, err error) {
	all := slices.Concat(i.single, i.many)
	given := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return !cmd.Flags().Changed(name) })
	switch {
	case slices.Equal(given, []string{"stdin", "stdin-lines"}):
		return nil, false, usagef("-s is one message, and -l or --stdin-lines alone one for each line of standard input")
	case slices.Equal(given, []string{"message", "file"}) && slices.Contains(theirEncodings, i.file.text):
		return nil, false, usagef("-f is a file; MQTTX's -f is --encoding: raw, base64 or hex")
	case len(given) != 1:
		return nil, false, usagef("what to send: give one of %s", spelled(cmd, all))
	}
	if err := i.check(); err != nil {
		return nil, false, err
	}
	from := given[0]
	if from == "file" && i.file.text == "-" {
		from = "stdin"
	}
	switch from {
	case "message":
		messages = single(func() ([]byte, error) { return []byte(i.message.text), nil })
	case "file":
		messages = single(func() ([]byte, error) { return os.ReadFile(i.file.text) })
	case "stdin":
		messages = single(func() ([]byte, error) { return io.ReadAll(cmd.InOrStdin()) })
	case "null":
		messages = single(func() ([]byte, error) { return nil, nil })
	case "size":
		messages = single(func() ([]byte, error) {
			b := make([]byte, i.random)
			rand.Read(b)
			return b, nil
		})
	case "stdin-lines":
		messages = linesOf(func() (io.ReadCloser, error) { return io.NopCloser(cmd.InOrStdin()), nil })
	case "lines":
		messages = linesOf(func() (io.ReadCloser, error) { return os.Open(i.lines.text) })
	}
	return i.decoded(messages), slices.Contains(i.many, given[0]), nil
}

// check makes sure that files are there.
func (i *inputFlags) check() error {
	if path := i.file.text; path != "" && path != "-" {
		if err := mustExist("-f", path); err != nil {
			return err
		}
	}
	if i.lines.text != "" {
		return mustExist("--lines", i.lines.text)
	}
	return nil
}

// mustExist is an error of a flag if there is no file or folder where it says.
func mustExist(flag, path string) error {
	if _, err := os.Stat(path); err != nil {
		return usagef("%s: %w", flag, err)
	}
	return nil
}

// spelled is a list of flags as an error shows it: "-m, -f, --size".
func spelled(cmd *cobra.Command, names []string) string {
	text := make([]string, len(names))
	for i, name := range names {
		text[i] = "--" + name
		if short := cmd.Flags().Lookup(name).Shorthand; short != "" {
			text[i] = "-" + short
		}
	}
	return strings.Join(text, ", ")
}

func single(read func() ([]byte, error)) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) { yield(read()) }
}

// linesOf returns lines without their ends, and no blank ones.
func linesOf(open func() (io.ReadCloser, error)) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		file, err := open()
		if err != nil {
			yield(nil, err)
			return
		}
		defer file.Close()
		for r := bufio.NewReader(file); err == nil; {
			var line []byte
			line, err = r.ReadBytes('\n')
			line = bytes.TrimRight(line, "\r\n")
			if len(bytes.TrimSpace(line)) > 0 && !yield(line, nil) {
				return
			}
		}
		if err != io.EOF {
			yield(nil, err)
		}
	}
}

// decoded turns messages that are written in another way into bytes.
func (i *inputFlags) decoded(messages iter.Seq2[[]byte, error]) iter.Seq2[[]byte, error] {
	decode := map[string]func(string) ([]byte, error){
		"base64": base64.StdEncoding.DecodeString,
		"hex":    hex.DecodeString,
	}[i.encoding.word]
	if decode == nil {
		return messages
	}
	return func(yield func([]byte, error) bool) {
		for text, err := range messages {
			var b []byte
			if err == nil {
				if b, err = decode(strings.TrimSpace(string(text))); err != nil {
					err = usagef("the message is not %s: %w", i.encoding.word, err)
				}
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

// repeated returns messages times times over; 0 is without end.
func repeated(messages iter.Seq2[[]byte, error], times int) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for n := 0; times == 0 || n < times; n++ {
			for m, err := range messages {
				if !yield(m, err) {
					return
				}
			}
		}
	}
}

// many is "1 message" or "5 messages".
func many(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
