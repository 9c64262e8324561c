package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/petrel-mqtt/mqtt/broker"
)

func TestPasswd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passwd")
	for _, c := range []struct {
		args, stdin, errors string
	}{
		{"passwd FILE alice", "x", "petrel passwd: there is no file FILE: -c makes it\n"},
		{"passwd -c FILE alice", "", "petrel passwd: the password is empty\n"},
		{"passwd -c FILE #alice", "x", "petrel passwd: \"#alice\" cannot be a user name in a password file\n"},
		{"passwd -c FILE alice", "first\n", ""},
		{"passwd -c FILE bob", "x", "petrel passwd: FILE exists: leave out -c to change it\n"},
		{"passwd FILE bob --scheme bcrypt", "with spaces \r\nand more", ""},
		{"passwd FILE carol --scheme argon2id", "third", ""},
		{"passwd FILE 01:23:45:67:89:ab", "fourth", ""},
		{"passwd FILE alice", "changed", ""},
		{"passwd -D FILE carol", "", ""},
		{"passwd -D FILE carol", "", "petrel passwd: there is no user carol in FILE\n"},
	} {
		args := strings.Fields(strings.ReplaceAll(c.args, "FILE", file))
		r := run(t.Context(), nil, c.stdin, args...)
		if got := strings.ReplaceAll(r.errors, file, "FILE"); got != c.errors || r.out != "" || (r.code == exitOK) != (c.errors == "") {
			t.Errorf("%s: %+v", c.args, r)
		}
	}
	p, err := broker.ReadPasswords(file)
	if err != nil {
		t.Fatal(err)
	}
	if users := strings.Join(p.Users(), " "); users != "01:23:45:67:89:ab alice bob" {
		t.Errorf("users %s", users)
	}
	if !p.Match("alice", []byte("changed")) || !p.Match("bob", []byte("with spaces ")) || !p.Match("01:23:45:67:89:ab", []byte("fourth")) {
		t.Error("the passwords are others")
	}
	if !strings.Contains(p.String(), "alice:$7$210000$") {
		t.Errorf("the default is another: %s", p)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}
