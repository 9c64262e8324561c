package broker

import (
	"fmt"
	"hash/maphash"
	"os"
	"slices"
	"strings"
	"testing"
)

// Files made by other programs.
func TestPasswordsOfOthers(t *testing.T) {
	p, err := ReadPasswords("testdata/passwords")
	check(t, err)
	users := p.Users()
	if len(users) != 11 || !slices.IsSorted(users) {
		t.Errorf("users %q", users)
	}
	for _, user := range users {
		password := "correct"
		switch {
		case user == "manual":
			password = "test"
		case strings.HasSuffix(user, "-utf8"):
			password = "päss wörd:x"
		}
		if !p.Match(user, []byte(password)) {
			t.Errorf("%s cannot log in", user)
		}
		for _, wrong := range []string{"", "Correct", password + "x", password[1:]} {
			if p.Match(user, []byte(wrong)) {
				t.Errorf("%s can log in with %q", user, wrong)
			}
		}
	}
	if p.Match("nobody", []byte("correct")) || p.Match("", nil) {
		t.Error("somebody else can log in")
	}
}

func TestNewHash(t *testing.T) {
	p, err := ParsePasswords(nil)
	check(t, err)
	for scheme, prefix := range map[Scheme]string{
		SHA512Crypt: "$6$", Bcrypt: "$2a$10$", PBKDF2: "$7$210000$", Argon2id: "$argon2id$v=19$m=65536,t=3,p=4$",
	} {
		h, err := NewHash(scheme, []byte("secret"))
		check(t, err)
		if !strings.HasPrefix(h, prefix) {
			t.Errorf("%s: %s", scheme, h)
		}
		check(t, p.Set(string(scheme), h))
		if !p.Match(string(scheme), []byte("secret")) || p.Match(string(scheme), []byte("Secret")) {
			t.Errorf("%s does not match its own hash", scheme)
		}
	}
	if Schemes()[0] != PBKDF2 {
		t.Errorf("the first scheme is %s", Schemes()[0])
	}
	for _, c := range []struct {
		scheme   Scheme
		password string
		want     string
	}{
		{"md5", "secret", `unknown scheme "md5"; use pbkdf2, bcrypt, argon2id or sha512-crypt`},
		{Bcrypt, "", "the password is empty"},
		{Bcrypt, strings.Repeat("x", 73), "the password is longer than the 72 bytes that bcrypt takes; use another scheme"},
		{PBKDF2, strings.Repeat("x", 1025), "the password is longer than 1024 bytes"},
	} {
		if _, err := NewHash(c.scheme, []byte(c.password)); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.scheme, err, c.want)
		}
	}
}

func TestPasswordsEdit(t *testing.T) {
	const text = "# ours\na:$7$1$AAAA$" + key + "\n\nb:$7$2$AAAA$" + key + "\r\nc:$7$3$AAAA$" + key
	dir := t.TempDir()
	path := dir + "/passwd"
	check(t, os.WriteFile(path, []byte(text), 0o640))
	check(t, os.Chmod(path, 0o640)) // whatever the umask is
	p, err := ReadPasswords(path)
	check(t, err)
	if !p.Delete("a") || p.Delete("a") || p.Delete("nobody") {
		t.Error("delete")
	}
	check(t, p.Set("c", "$7$4$AAAA$"+key))
	check(t, p.Set("d", "$7$5$AAAA$"+key))
	check(t, p.Set("01:23:45:ab:cd:ef", "$7$6$AAAA$"+key))
	for _, bad := range []string{"", "a\nb", "#a", " a"} {
		if p.Set(bad, "$7$5$AAAA$"+key) == nil {
			t.Errorf("%q can be a user", bad)
		}
	}
	if p.Set("e", "plain") == nil {
		t.Error("a plain password can be a hash")
	}
	check(t, p.Write(path))
	got, err := os.ReadFile(path)
	check(t, err)
	want := "# ours\n\nb:$7$2$AAAA$" + key + "\nc:$7$4$AAAA$" + key + "\nd:$7$5$AAAA$" + key +
		"\n01:23:45:ab:cd:ef:$7$6$AAAA$" + key + "\n"
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	check(t, p.Write(path+"2"))
	if info, err := os.Stat(path + "2"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("%v, %v", left, err)
	}
}

const key = "mpLp6vay3TSVlhPT3TzLDiBXXoJdhmbTrZf8f6oE2LEfa0hYEYyW6fw2mDxxF46ZEI8upe2o7DMskrHKkTR3Pg=="

func TestBadPasswords(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"alice", "line 2: is not of the form user:hash"},
		{":$6$a$b", "line 2: is not of the form user:hash"},
		{"good:x", "line 2: user good is there twice; remove one"},
		{"alice:", "line 2: user alice: has no hash; make one with petrel passwd"},
		{"alice:secret:$", "line 2: user alice:secret: is none of $6$, $2y$, $7$ and $argon2id$; hash the password with petrel passwd"},
		{"alice:$argon2id$v=19$m=64,t=1,p=1$AAAA", "line 2: user alice: is not a hash of argon2id; make it anew with petrel passwd"},
		{"alice:$argon2id$v=16$m=64,t=1,p=1$AAAA$AAAAAAAA", "line 2: user alice: is not a hash of argon2id; make it anew with petrel passwd"},
		{"alice:$argon2id$v=19$m=64,t=0,p=1$AAAA$AAAAAAAA", "line 2: user alice: is not a hash of argon2id; make it anew with petrel passwd"},
		{"alice:$argon2id$v=19$m=64,t=1,p=0$AAAA$AAAAAAAA", "line 2: user alice: is not a hash of argon2id; make it anew with petrel passwd"},
		{"alice:$argon2id$v=19$m=64,t=1,p=1,k=2$AAAA$AAAAAAAA", "line 2: user alice: is not a hash of argon2id; make it anew with petrel passwd"},
		{"alice:$argon2id$v=19$m=64,t=1,p=1$AAAA$AAA", "line 2: user alice: is not a hash of argon2id; make it anew with petrel passwd"},
		{"alice:$argon2id$v=19$m=1048577,t=1,p=1$AAAA$AAAAAAAA", "line 2: user alice: takes more than 1 GiB of memory; make it anew with petrel passwd"},
		{"alice:secret", "line 2: user alice: is none of $6$, $2y$, $7$ and $argon2id$; hash the password with petrel passwd"},
		{"alice:$1$abc$def", "line 2: user alice: is none of $6$, $2y$, $7$ and $argon2id$; hash the password with petrel passwd"},
		{"alice:$6$abc", "line 2: user alice: is not a SHA-512 crypt hash; make it anew with petrel passwd"},
		{"alice:$6$lzjqZ7PTWqoiJIu8$" + key, "line 2: user alice: was made by mosquitto_passwd before 2.0; make it anew with petrel passwd"},
		{"alice:$2y$04$short", "line 2: user alice: is not a bcrypt hash; make it anew with petrel passwd"},
		{"alice:$7$101$AAAA", "line 2: user alice: is not a hash of mosquitto_passwd; make it anew with petrel passwd"},
		{"alice:$7$0$AAAA$" + key, "line 2: user alice: is not a hash of mosquitto_passwd; make it anew with petrel passwd"},
		{"alice:$7$999999999$AAAA$" + key, "line 2: user alice: is not a hash of mosquitto_passwd; make it anew with petrel passwd"},
		{"alice:$7$101$?$" + key, "line 2: user alice: is not a hash of mosquitto_passwd; make it anew with petrel passwd"},
		{"alice:$7$101$AAAA$AAAA", "line 2: user alice: is not a hash of mosquitto_passwd; make it anew with petrel passwd"},
	} {
		_, err := ParsePasswords([]byte("good:$7$101$AAAA$" + key + "\n" + c.line))
		if err == nil || err.Error() != c.want {
			t.Errorf("%s\n got %v\nwant %s", c.line, err, c.want)
		}
	}
}

// A byte order mark is no part of the first name, and other marks are told.
func TestPasswordsByteOrderMark(t *testing.T) {
	p, err := ParsePasswords([]byte("\ufeffalice:$7$1$AAAA$" + key))
	check(t, err)
	if users := p.Users(); len(users) != 1 || users[0] != "alice" {
		t.Errorf("%q", users)
	}
	if p.String() != "alice:$7$1$AAAA$"+key+"\n" {
		t.Errorf("%q", p)
	}
	if _, err := ParsePasswords([]byte("\xff\xfea\x00")); err == nil || err.Error() != "is in UTF-16; save it in UTF-8" {
		t.Error(err)
	}
}

// A password that nobody would type does not cost what its length makes of it, even if it is the right one.
func TestLongPassword(t *testing.T) {
	var asked [][]byte
	p := &Passwords{seed: maphash.MakeSeed(), line: map[string]int{"alice": 0}, lines: []passwordLine{{"", hash{"", func(password []byte) bool {
		asked = append(asked, password)
		return true
	}}}}}
	long := make([]byte, 65535)
	if p.Match("alice", long) || p.Match("nobody", long) || p.Match("alice", long[:1025]) {
		t.Error("a long password is right")
	}
	if !p.Match("alice", long[:1024]) {
		t.Error("1,024 bytes are too long")
	}
	for _, password := range asked[:3] {
		if len(password) != 16 {
			t.Errorf("%d bytes were hashed", len(password))
		}
	}
}

// Somebody who does not exist takes the time of always the same user.
func TestDecoy(t *testing.T) {
	asked := map[int]int{}
	p, err := ParsePasswords([]byte("# nobody\n\n"))
	check(t, err)
	if p.Match("x", nil) {
		t.Error("there is nobody")
	}
	for i := range 4 {
		p.line[string(rune('a'+i))] = len(p.lines)
		p.lines = append(p.lines, passwordLine{"", hash{"", func([]byte) bool {
			asked[i]++
			return true
		}}})
	}
	for range 3 {
		if p.Match("x", nil) {
			t.Error("x exists")
		}
	}
	if len(asked) != 1 {
		t.Errorf("asked %v", asked)
	}
	for user := range 1000 {
		p.Match(fmt.Sprint(user), nil)
	}
	if len(asked) != 4 {
		t.Errorf("asked %v", asked)
	}
}

// Every line that was taken is written, and read again.
func FuzzPasswords(f *testing.F) {
	text, err := os.ReadFile("testdata/passwords")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	for _, seed := range []string{
		"", "\ufeffa:$7$1$AAAA$" + key, "#c\n\n 01:02:$7$1$AAAA$" + key + " \r\n", "a:$2a$10$", "a:$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAAAAAA",
		"a:$6$rounds=1000$x$", ":", "a:\x00", "\xff\xfe",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := ParsePasswords(text)
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("an error of two lines: %q", err)
			}
			return
		}
		again, err := ParsePasswords([]byte(p.String()))
		if err != nil || !slices.Equal(p.Users(), again.Users()) {
			t.Errorf("%q became %q: %v", p.Users(), again.Users(), err)
		}
		for _, user := range p.Users() {
			if p.Set(user, p.hashOf(user)) != nil || p.hashOf(user) != again.hashOf(user) || !p.Delete(user) {
				t.Errorf("%q", user)
			}
		}
	})
}
