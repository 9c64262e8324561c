package broker

import (
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
	if len(users) != 8 || !slices.IsSorted(users) {
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
	for scheme, prefix := range map[Scheme]string{SHA512Crypt: "$6$", Bcrypt: "$2a$10$", PBKDF2: "$7$10000$"} {
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
	if _, err := NewHash("md5", []byte("secret")); err == nil || err.Error() != `unknown scheme "md5"; use sha512-crypt, bcrypt or pbkdf2` {
		t.Error(err)
	}
	if _, err := NewHash(Bcrypt, nil); err == nil || err.Error() != "the password is empty" {
		t.Error(err)
	}
}

func TestPasswordsEdit(t *testing.T) {
	const text = "# ours\na:$7$1$AAAA$" + key + "\n\nb:$7$2$AAAA$" + key + "\r\nc:$7$3$AAAA$" + key
	dir := t.TempDir()
	path := dir + "/passwd"
	check(t, os.WriteFile(path, []byte(text), 0o640))
	p, err := ReadPasswords(path)
	check(t, err)
	if !p.Delete("a") || p.Delete("a") || p.Delete("nobody") {
		t.Error("delete")
	}
	check(t, p.Set("c", "$7$4$AAAA$"+key))
	check(t, p.Set("d", "$7$5$AAAA$"+key))
	for _, bad := range []string{"", "a:b", "a\nb", "#a", " a"} {
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
	want := "# ours\n\nb:$7$2$AAAA$" + key + "\nc:$7$4$AAAA$" + key + "\nd:$7$5$AAAA$" + key + "\n"
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
		{"alice:secret", "line 2: user alice: is neither $6$, $2y$ nor $7$; hash the password with petrel passwd"},
		{"alice:$1$abc$def", "line 2: user alice: is neither $6$, $2y$ nor $7$; hash the password with petrel passwd"},
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
