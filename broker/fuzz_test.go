package broker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// seed adds the files that match a pattern, and texts.
func seed(f *testing.F, pattern string, texts ...string) {
	f.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || files == nil {
		f.Fatalf("%s: %v", pattern, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, text := range texts {
		f.Add([]byte(text))
	}
}

// A configuration is one that New takes, and its error is one line.
func FuzzConfig(f *testing.F) {
	seed(f, "testdata/*.yaml", "", "listeners: {a: {bind: ':1', type: ws, origins: ['https://h']}}", "\xef\xbb\xbfauth: {acl_file: x}",
		"a: &a [*a]", "listeners: &l {default: *l}", "? [a]\n: b", "1: 2", "auth: !!binary aGk=", "plugins: [[a]]",
		"sys_interval: 1e300", "timeout-disconnect-delay: .nan", "listeners: {? {a: b} : {bind: 'h:1'}}")
	f.Fuzz(func(t *testing.T, text []byte) {
		c, err := ParseConfig(text)
		if err == nil {
			_, err = New(c)
			if err != nil && !strings.Contains(err.Error(), "plugin") && !strings.HasPrefix(err.Error(), "auth: nobody could connect") {
				t.Errorf("New refuses what ParseConfig takes: %v", err)
			}
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("an error of several lines: %q", err)
		}
	})
}

// Whatever a file says, a rule that denies a topic holds, and a client without a right has none by its name.
func FuzzACL(f *testing.F) {
	for _, s := range []struct{ text, user, id, topic string }{
		{"topic read public/#\nuser alice\ntopic readwrite home/#\ntopic deny home/safe\npattern write log/%u/%c", "alice", "x", "home/safe"},
		{"\xef\xbb\xbfpattern %u/%c", "a", "b", "a/b"},
		{"pattern deny %u\npattern #", "+", "#", "a"},
		{"user a b\ntopic  deny  c d ", "a b", "", "c d"},
		{"pattern +/%u", "$SYS", "$SYS", "$SYS/x"},
		{"pattern %u", "\x00", "", "\x00"},
	} {
		f.Add([]byte(s.text), s.user, s.id, s.topic)
	}
	f.Fuzz(func(t *testing.T, text []byte, user, id, name string) {
		a, err := parseACL(text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("an error of several lines: %q", err)
			}
			return
		}
		if name == "" || strings.ContainsAny(name, "+#") {
			return // not a topic name
		}
		c := Client{ID: id, Username: user}
		for _, access := range []Access{Publish, Receive} {
			if !a.allows(c, access, name) {
				continue
			}
			for _, r := range append(a.users[user], a.patterns...) {
				if r.deny && r.covers(c, access, name) {
					t.Errorf("%+v denies %q, and yet it is allowed", r, name)
				}
			}
		}
		if a.allows(c, Receive, name) && !a.allows(c, Subscribe, name) {
			t.Errorf("%q may be received, and not subscribed to", name)
		}
	})
}
