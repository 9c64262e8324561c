package broker

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/go-crypt/crypt/algorithm"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"golang.org/x/crypto/bcrypt"
)

// Passwords is a password file: lines of user:hash, blank lines, and comments that begin with #. It knows SHA-512 crypt
// ($6$) as made by mkpasswd and openssl passwd -6, bcrypt ($2y$, $2b$, $2a$) as made by htpasswd -B, and Mosquitto's
// PBKDF2 ($7$). It may not be used while Set or Delete runs.
type Passwords struct {
	lines  []string       // without line ends
	line   map[string]int // the line of each user
	hashes map[string]hash
}

// hash is what a password is checked against.
type hash struct {
	text  string
	match func(password []byte) bool // takes the same time whatever the password
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
	p := &Passwords{line: map[string]int{}, hashes: map[string]hash{}}
	for line := range bytes.Lines(content) {
		if err := p.add(strings.TrimRight(string(line), "\r\n")); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(p.lines)+1, err)
		}
	}
	return p, nil
}

func (p *Passwords) add(line string) error {
	if trimmed := strings.TrimSpace(line); trimmed != "" && trimmed[0] != '#' {
		user, text, found := strings.Cut(trimmed, ":")
		if !found || user == "" {
			return errors.New("is not of the form user:hash")
		}
		if _, ok := p.line[user]; ok {
			return fmt.Errorf("user %s is there twice; remove one", user)
		}
		h, err := parseHash(text)
		if err != nil {
			return fmt.Errorf("user %s: %w", user, err)
		}
		p.line[user], p.hashes[user] = len(p.lines), h
	}
	p.lines = append(p.lines, line)
	return nil
}

// Users returns the names of all users, sorted.
func (p *Passwords) Users() []string {
	users := make([]string, 0, len(p.line))
	for user := range p.line {
		users = append(users, user)
	}
	slices.Sort(users)
	return users
}

// Match reports whether the password is the user's. Whether there is such a user cannot be told from the time it takes,
// as far as all hashes are of the same kind.
func (p *Passwords) Match(user string, password []byte) bool {
	h, ok := p.hashes[user]
	if ok {
		return h.match(password)
	}
	for _, h := range p.hashes {
		h.match(password)
		break
	}
	return false
}

// Set gives a user a hash, such as NewHash makes; the user need not exist.
func (p *Passwords) Set(user, text string) error {
	if user == "" || strings.ContainsAny(user, ":\r\n") || user[0] == '#' || strings.TrimSpace(user) != user {
		return fmt.Errorf("%q cannot be a user name in a password file", user)
	}
	h, err := parseHash(text)
	if err != nil {
		return err
	}
	i, ok := p.line[user]
	if !ok {
		i = len(p.lines)
		p.lines = append(p.lines, "")
	}
	p.lines[i], p.line[user], p.hashes[user] = user+":"+text, i, h
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
	delete(p.hashes, user)
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
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.String()
}

// has reports whether a user has this hash. Nil holds nobody.
func (p *Passwords) has(user, hash string) bool {
	return p != nil && p.hashes[user].text == hash
}

// Scheme is a way to hash a password.
type Scheme string

const (
	SHA512Crypt Scheme = "sha512-crypt" // $6$, with the 5,000 rounds of mkpasswd and openssl
	Bcrypt      Scheme = "bcrypt"       // $2a$, with cost 10
	PBKDF2      Scheme = "pbkdf2"       // Mosquitto's $7$, with 10,000 iterations
)

// NewHash hashes a password with a fresh salt.
func NewHash(scheme Scheme, password []byte) (string, error) {
	if len(password) == 0 {
		return "", errors.New("the password is empty")
	}
	switch scheme {
	case SHA512Crypt:
		h, err := shacrypt.New(shacrypt.WithSHA512(), shacrypt.WithIterations(shacrypt.IterationsDefaultOmitted))
		if err != nil {
			return "", err
		}
		d, err := h.Hash(string(password))
		if err != nil {
			return "", err
		}
		return d.Encode(), nil
	case Bcrypt:
		h, err := bcrypt.GenerateFromPassword(password, bcrypt.DefaultCost)
		return string(h), err
	case PBKDF2:
		return newPBKDF2(password)
	}
	return "", fmt.Errorf("unknown scheme %q; use %s, %s or %s", scheme, SHA512Crypt, Bcrypt, PBKDF2)
}

// parseHash takes a hash of any kind.
func parseHash(text string) (hash, error) {
	switch {
	case strings.HasPrefix(text, "$6$"):
		return parseSHA512(text)
	case strings.HasPrefix(text, "$2"):
		if _, err := bcrypt.Cost([]byte(text)); err != nil {
			return hash{}, errors.New("is not a bcrypt hash; make it anew with petrel passwd")
		}
		return hash{text, func(password []byte) bool {
			return bcrypt.CompareHashAndPassword([]byte(text), password) == nil
		}}, nil
	case strings.HasPrefix(text, "$7$"):
		return parsePBKDF2(text)
	case text == "":
		return hash{}, errors.New("has no hash; make one with petrel passwd")
	}
	return hash{}, errors.New("is neither $6$, $2y$ nor $7$; hash the password with petrel passwd")
}

func parseSHA512(text string) (hash, error) {
	if strings.HasSuffix(text, "==") { // Mosquitto's, of the same prefix, is in base64
		return hash{}, errors.New("was made by mosquitto_passwd before 2.0; make it anew with petrel passwd")
	}
	d, err := shacrypt.DecodeVariant(shacrypt.VariantSHA512)(text)
	if err != nil {
		return hash{}, errors.New("is not a SHA-512 crypt hash; make it anew with petrel passwd")
	}
	return hash{text, func(password []byte) bool { return algorithm.Digest(d).MatchBytes(password) }}, nil
}

// newPBKDF2 makes what mosquitto_passwd makes: $7$iterations$salt$key, in base64.
func newPBKDF2(password []byte) (string, error) {
	const iterations = 10_000
	salt := make([]byte, 16)
	rand.Read(salt)
	key, err := pbkdf2.Key(sha512.New, string(password), salt, iterations, sha512.Size)
	if err != nil {
		return "", err
	}
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("$7$%d$%s$%s", iterations, encode(salt), encode(key)), nil
}

func parsePBKDF2(text string) (hash, error) {
	bad := errors.New("is not a hash of mosquitto_passwd; make it anew with petrel passwd")
	parts := strings.Split(text, "$")
	if len(parts) != 5 {
		return hash{}, bad
	}
	iterations, err := strconv.Atoi(parts[2])
	salt, saltErr := base64.StdEncoding.DecodeString(parts[3])
	key, keyErr := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || saltErr != nil || keyErr != nil || iterations < 1 || iterations > 10_000_000 || len(key) != sha512.Size {
		return hash{}, bad
	}
	return hash{text, func(password []byte) bool {
		got, err := pbkdf2.Key(sha512.New, string(password), salt, iterations, len(key))
		return err == nil && subtle.ConstantTimeCompare(got, key) == 1
	}}, nil
}
