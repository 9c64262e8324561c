package broker

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// Passwords is a password file: lines of user:hash, blank lines, and comments that begin with #. A user name may have
// colons in it, because no hash has: the last one is the border. It knows SHA-512 crypt ($6$) as made by mkpasswd and
// openssl passwd -6, bcrypt ($2y$, $2b$, $2a$) as made by htpasswd -B, Mosquitto's PBKDF2 ($7$), and argon2id. It may not
// be used while Set or Delete runs.
type Passwords struct {
	lines []passwordLine
	line  map[string]int // the line of each user
	seed  maphash.Seed
}

// passwordLine is a line of the file, without its end. A line that names no user has no hash.
type passwordLine struct {
	text string
	hash hash
}

// ReadPasswords reads a password file. An error is one line that names the file and the line.
func ReadPasswords(path string) (*Passwords, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p, err := ParsePasswords(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// ParsePasswords is ReadPasswords for a text.
func ParsePasswords(content []byte) (*Passwords, error) {
	content, err := unmarked(content)
	if err != nil {
		return nil, err
	}
	p := &Passwords{line: map[string]int{}, seed: maphash.MakeSeed()}
	for line := range bytes.Lines(content) {
		if err := p.add(strings.TrimRight(string(line), "\r\n")); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(p.lines)+1, err)
		}
	}
	return p, nil
}

// unmarked takes the byte order mark off a text, which some editors put there.
func unmarked(text []byte) ([]byte, error) {
	if bytes.HasPrefix(text, []byte("\xfe\xff")) || bytes.HasPrefix(text, []byte("\xff\xfe")) {
		return nil, errors.New("is in UTF-16; save it in UTF-8")
	}
	return bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), nil
}

func (p *Passwords) add(text string) error {
	var h hash
	if trimmed := strings.TrimSpace(text); trimmed != "" && trimmed[0] != '#' {
		border := strings.LastIndexByte(trimmed, ':')
		if border < 1 {
			return errors.New("is not of the form user:hash")
		}
		user := trimmed[:border]
		if _, ok := p.line[user]; ok {
			return fmt.Errorf("user %s is there twice; remove one", user)
		}
		var err error
		if h, err = parseHash(trimmed[border+1:]); err != nil {
			return fmt.Errorf("user %s: %w", user, err)
		}
		p.line[user] = len(p.lines)
	}
	p.lines = append(p.lines, passwordLine{text, h})
	return nil
}

// Users returns the names of all users, sorted.
func (p *Passwords) Users() []string { return slices.Sorted(maps.Keys(p.line)) }

// Match reports whether the password is the user's. More than 1,024 bytes are nobody's. Neither that nor whether there is
// such a user can be told from the time it takes: a user who does not exist takes as long as one who does.
func (p *Passwords) Match(user string, password []byte) bool {
	if i, ok := p.line[user]; ok {
		return p.lines[i].hash.right(password)
	}
	if h := p.decoy(user); h.match != nil {
		h.right(password)
	}
	return false
}

// decoy returns the hash that stands for a user who does not exist. It is always the same one, and of the kinds that the
// users have.
func (p *Passwords) decoy(user string) (h hash) {
	if len(p.line) == 0 {
		return h
	}
	for i := int(maphash.String(p.seed, user) % uint64(len(p.lines))); h.match == nil; i++ {
		h = p.lines[i%len(p.lines)].hash
	}
	return h
}

// Set gives a user a hash, such as NewHash makes; the user need not exist.
func (p *Passwords) Set(user, text string) error {
	if user == "" || strings.Contains(user, "\n") || user[0] == '#' || strings.TrimLeftFunc(user, unicode.IsSpace) != user {
		return fmt.Errorf("%q cannot be a user name in a password file", user)
	}
	h, err := parseHash(text)
	if err != nil {
		return err
	}
	i, ok := p.line[user]
	if !ok {
		i = len(p.lines)
		p.lines = append(p.lines, passwordLine{})
	}
	p.lines[i], p.line[user] = passwordLine{user + ":" + text, h}, i
	return nil
}

// Delete removes a user and reports whether there was one.
func (p *Passwords) Delete(user string) bool {
	i, ok := p.line[user]
	if !ok {
		return false
	}
	p.lines = slices.Delete(p.lines, i, i+1)
	delete(p.line, user)
	for other, j := range p.line {
		if j > i {
			p.line[other] = j - 1
		}
	}
	return true
}

// Write replaces a password file, in one step. A file that was there keeps its owner, its group and its mode, so that a
// broker that could read it still can; it is an error if that is not possible. A new file is for its owner alone.
func (p *Passwords) Write(path string) error {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // when it has not been renamed
	_, err = f.WriteString(p.String())
	if info, statErr := os.Stat(path); err == nil && statErr == nil {
		err = takeAfter(f, info)
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// takeAfter gives a file the owner, group and mode of another one.
func takeAfter(f *os.File, other os.FileInfo) error {
	if err := takeOwner(f, other); err != nil {
		return fmt.Errorf("%s belongs to somebody else, and would not after this; change it as its owner or as root (%v)", other.Name(), cause(err))
	}
	return f.Chmod(other.Mode().Perm()) // after the owner: changing that may change the mode
}

// String returns the text of the file.
func (p *Passwords) String() string {
	var b strings.Builder
	for _, line := range p.lines {
		b.WriteString(line.text)
		b.WriteByte('\n')
	}
	return b.String()
}

// hashOf returns the hash of a user, in the form of the file; "" if there is no such user. Nil holds nobody.
func (p *Passwords) hashOf(user string) string {
	if p == nil {
		return ""
	}
	if i, ok := p.line[user]; ok {
		return p.lines[i].hash.text
	}
	return ""
}
