package broker

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-crypt/crypt/algorithm"
	"github.com/go-crypt/crypt/algorithm/shacrypt"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Scheme is a way to hash a password.
type Scheme string

const (
	PBKDF2      Scheme = "pbkdf2"       // Mosquitto's $7$, with 210,000 iterations
	Bcrypt      Scheme = "bcrypt"       // $2a$, with cost 10; passwords of at most 72 bytes
	Argon2id    Scheme = "argon2id"     // $argon2id$, with 64 MiB of memory, 3 passes and 4 lanes
	SHA512Crypt Scheme = "sha512-crypt" // $6$, with the 5,000 rounds of mkpasswd and openssl; HBMQTT knows no other
)

// Schemes are all that NewHash knows. The first one is the one to take if there is no reason for another one.
func Schemes() []Scheme { return []Scheme{PBKDF2, Bcrypt, Argon2id, SHA512Crypt} }

// maxPassword bounds a password, in bytes. What is longer is wrong, because the time that SHA-512 crypt takes grows with
// the square of the length: a CONNECT of 64 KiB would cost 9 s before anybody is known.
const maxPassword = 1024

// hash is what a password is checked against.
type hash struct {
	text  string
	match func(password []byte) bool // takes about the same time whatever the password
}

// right reports whether the password is the one that was hashed. One that is too long takes the time of a wrong one.
func (h hash) right(password []byte) bool {
	if len(password) > maxPassword {
		h.match(password[:16])
		return false
	}
	return h.match(password)
}

// NewHash hashes a password of 1 to 1,024 bytes with a fresh salt.
func NewHash(scheme Scheme, password []byte) (string, error) {
	switch {
	case len(password) == 0:
		return "", errors.New("the password is empty")
	case len(password) > maxPassword:
		return "", fmt.Errorf("the password is longer than %d bytes", maxPassword)
	}
	switch scheme {
	case PBKDF2:
		return newPBKDF2(password)
	case Bcrypt:
		h, err := bcrypt.GenerateFromPassword(password, bcrypt.DefaultCost)
		if errors.Is(err, bcrypt.ErrPasswordTooLong) {
			err = errors.New("the password is longer than the 72 bytes that bcrypt takes; use another scheme")
		}
		return string(h), err
	case Argon2id:
		return newArgon2id(password), nil
	case SHA512Crypt:
		return newSHA512(password)
	}
	return "", fmt.Errorf("unknown scheme %q; use %s, %s, %s or %s", scheme, PBKDF2, Bcrypt, Argon2id, SHA512Crypt)
}

// parseHash takes a hash of any kind.
func parseHash(text string) (hash, error) {
	switch {
	case strings.HasPrefix(text, "$6$"):
		return parseSHA512(text)
	case strings.HasPrefix(text, "$2"):
		return parseBcrypt(text)
	case strings.HasPrefix(text, "$7$"):
		return parsePBKDF2(text)
	case strings.HasPrefix(text, "$argon2id$"):
		return parseArgon2id(text)
	case text == "":
		return hash{}, errors.New("has no hash; make one with petrel passwd")
	}
	return hash{}, errors.New("is none of $6$, $2y$, $7$ and $argon2id$; hash the password with petrel passwd")
}

func newSHA512(password []byte) (string, error) {
	h, err := shacrypt.New(shacrypt.WithSHA512(), shacrypt.WithIterations(shacrypt.IterationsDefaultOmitted))
	if err != nil {
		return "", err
	}
	d, err := h.Hash(string(password))
	if err != nil {
		return "", err
	}
	return d.Encode(), nil
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

func parseBcrypt(text string) (hash, error) {
	if _, err := bcrypt.Cost([]byte(text)); err != nil {
		return hash{}, errors.New("is not a bcrypt hash; make it anew with petrel passwd")
	}
	return hash{text, func(password []byte) bool {
		return bcrypt.CompareHashAndPassword([]byte(text), password) == nil
	}}, nil
}

// newPBKDF2 makes what mosquitto_passwd makes: $7$iterations$salt$key, in base64. Mosquitto takes no salt except one of 12
// bytes. The iterations are those that OWASP's cheat sheet of 2023 asks for with SHA-512.
func newPBKDF2(password []byte) (string, error) {
	const iterations = 210_000
	salt := make([]byte, 12)
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

// newArgon2id uses the parameters that RFC 9106, section 4, recommends where memory is scarce: 64 MiB, 3 passes, 4 lanes.
func newArgon2id(password []byte) string {
	p := argonCost{memory: 64 << 10, passes: 3, lanes: 4}
	salt := make([]byte, 16)
	rand.Read(salt)
	key := argon2.IDKey(password, salt, p.passes, p.memory, p.lanes, 32)
	encode := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$%v$%s$%s", argon2.Version, p, encode(salt), encode(key))
}

// argonCost is what a hash of argon2id costs.
type argonCost struct {
	memory, passes uint32 // in KiB
	lanes          uint8
}

func (c argonCost) String() string { return fmt.Sprintf("m=%d,t=%d,p=%d", c.memory, c.passes, c.lanes) }

// maxArgonMemory bounds the memory of one hash, in KiB: each client that connects may cost that much.
const maxArgonMemory = 1 << 20

func parseArgon2id(text string) (hash, error) {
	bad := errors.New("is not a hash of argon2id; make it anew with petrel passwd")
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return hash{}, bad
	}
	var c argonCost
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &c.memory, &c.passes, &c.lanes); err != nil || c.String() != parts[3] {
		return hash{}, bad
	}
	salt, saltErr := base64.RawStdEncoding.DecodeString(parts[4])
	key, keyErr := base64.RawStdEncoding.DecodeString(parts[5])
	if saltErr != nil || keyErr != nil || len(key) < 4 || len(key) > 64 || c.passes < 1 || c.passes > 1000 || c.lanes < 1 {
		return hash{}, bad
	}
	if c.memory > maxArgonMemory {
		return hash{}, errors.New("takes more than 1 GiB of memory; make it anew with petrel passwd")
	}
	return hash{text, func(password []byte) bool {
		got := argon2.IDKey(password, salt, c.passes, c.memory, c.lanes, uint32(len(key)))
		return subtle.ConstantTimeCompare(got, key) == 1
	}}, nil
}
