package broker

import (
	"context"
	"testing"

	"github.com/petrel-mqtt/mqtt/codec"
)

// withPasswords returns a configuration with a password file: each user's password is the name.
func withPasswords(t *testing.T, users ...string) Config {
	t.Helper()
	p, err := ParsePasswords(nil)
	check(t, err)
	for _, user := range users {
		hash, err := NewHash(SHA512Crypt, []byte(user))
		check(t, err)
		check(t, p.Set(user, hash))
	}
	c := onLoopback()
	c.Auth = Auth{PasswordFile: writeFile(t, t.TempDir()+"/passwd", p.String())}
	return c
}

// After too many wrong passwords from an address not even the right one is looked at.
func TestMaxFailedAttempts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version        codec.Version
		wrong, limited codec.ReasonCode
	}{
		{codec.V5, codec.BadUserNameOrPassword, codec.ConnectionRateExceeded},
		{codec.V311, codec.FromReturnCode(4), codec.FromReturnCode(3)},
	} {
		config := withPasswords(t, "alice")
		config.Auth.MaxFailedAttempts = 2
		b := start(t, config)
		for i, try := range []struct {
			password string
			want     codec.ReasonCode
		}{{"x", c.wrong}, {"alice", codec.Success}, {"x", c.wrong}, {"alice", c.limited}} {
			p, ack := join(t, b, c.version, &codec.Connect{
				ClientID: "x", CleanStart: true, Username: "alice", HasUsername: true, Password: []byte(try.password), HasPassword: true,
			})
			if ack.Code != try.want {
				t.Errorf("%v, attempt %d: %v, want %v", c.version, i, ack.Code, try.want)
			}
			p.conn.Close()
		}
		check(t, b.Shutdown(context.Background()))
	}
}
