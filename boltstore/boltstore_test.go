package boltstore

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/mqtttest"
	"github.com/petrel-mqtt/mqtt/storetest"
)

func open(t testing.TB, path string, opts ...Option) *Store {
	t.Helper()
	s, err := Open(path, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Release()
		s.Close()
	})
	return s
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestStore(t *testing.T) {
	seal, unseal := aead(t)
	for name, opts := range map[string][]Option{
		"always": nil, "interval": {WithSyncInterval(time.Millisecond)}, "sealed": {WithSeal(seal, unseal)}, "bounded": {WithMaxBytes(1 << 30)},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) (mqtt.Store, func() mqtt.Store) {
				path := filepath.Join(t.TempDir(), "store")
				s, err := Open(path, opts...)
				check(t, err)
				closed := false
				end := func() {
					if !closed {
						s.Release()
						check(t, s.Close())
						closed = true
					}
				}
				t.Cleanup(end)
				return s, func() mqtt.Store {
					end()
					return open(t, path, opts...)
				}
			})
		})
	}
}

// aead seals as the documentation asks.
func aead(t testing.TB) (seal, unseal func(key, value []byte) ([]byte, error)) {
	block, err := aes.NewCipher(make([]byte, 32))
	check(t, err)
	gcm, err := cipher.NewGCM(block)
	check(t, err)
	seal = func(key, value []byte) ([]byte, error) {
		nonce := make([]byte, gcm.NonceSize())
		rand.Read(nonce)
		return gcm.Seal(nonce, nonce, value, key), nil
	}
	unseal = func(key, sealed []byte) ([]byte, error) {
		if len(sealed) < gcm.NonceSize() {
			return nil, errors.New("too short")
		}
		return gcm.Open(nil, sealed[:gcm.NonceSize()], sealed[gcm.NonceSize():], key)
	}
	return seal, unseal
}

func nothing(key, value []byte) error { return nil }

func set(key, value string) []mqtt.StoreChange {
	return []mqtt.StoreChange{{Key: []byte(key), Value: []byte(value)}}
}

func TestSealed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	seal, unseal := aead(t)
	s, err := Open(path, WithSeal(seal, unseal))
	check(t, err)
	check(t, s.Load(t.Context(), nothing))
	check(t, s.Apply(t.Context(), set("k", "a secret of the application")))
	check(t, s.Release())
	check(t, s.Close())
	raw, err := os.ReadFile(path)
	check(t, err)
	if bytes.Contains(raw, []byte("secret")) {
		t.Error("the file has the payload")
	}
	wrong := func(key, sealed []byte) ([]byte, error) { return unseal([]byte("x"), sealed) }
	s = open(t, path, WithSeal(seal, wrong))
	if err := s.Load(t.Context(), nothing); err == nil {
		t.Error("opened with another key")
	}
}

func TestFileMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	open(t, path)
	info, err := os.Stat(path)
	check(t, err)
	if mode := info.Mode().Perm(); mode != 0o600 {
		t.Errorf("mode %o", mode)
	}
}

func TestInUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store")
	s := open(t, path)
	if _, err := Open(path); !errors.Is(err, mqtt.ErrStoreInUse) {
		t.Error(err)
	}
	check(t, s.Load(t.Context(), nothing))
	if err := s.Close(); !errors.Is(err, mqtt.ErrStoreInUse) {
		t.Error(err)
	}
}

// What is no store, or is damaged, is refused with advice, and not changed.
func TestRefused(t *testing.T) {
	filled := func(t *testing.T, path string) {
		s, err := Open(path)
		check(t, err)
		check(t, s.Load(context.Background(), nothing))
		check(t, s.Apply(context.Background(), set("key", strings.Repeat("payload", 10000))))
		s.Release()
		check(t, s.Close())
	}
	write := func(text string) func(*testing.T, string) {
		return func(t *testing.T, path string) { check(t, os.WriteFile(path, []byte(text), 0o600)) }
	}
	bolt := func(f func(tx *bbolt.Tx) error) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			db, err := bbolt.Open(path, 0o600, nil)
			check(t, err)
			check(t, db.Update(f))
			check(t, db.Close())
		}
	}
	for name, c := range map[string]struct {
		make func(t *testing.T, path string)
		want error
	}{
		"text":      {write("these are somebody's notes\n"), mqtt.ErrStoreForeign},
		"short":     {write("x"), mqtt.ErrStoreForeign},
		"large":     {write(strings.Repeat("notes ", 10000)), mqtt.ErrStoreForeign},
		"another's": {bolt(func(tx *bbolt.Tx) error { _, err := tx.CreateBucket([]byte("orders")); return err }), mqtt.ErrStoreForeign},
		"another format": {bolt(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucket(about)
			if err == nil {
				_, err = tx.CreateBucket(records)
			}
			return errors.Join(err, b.Put(formatKey, []byte("petrel-mqtt-store 2")))
		}), mqtt.ErrStoreForeign},
		"cut off": {func(t *testing.T, path string) {
			filled(t, path)
			check(t, os.Truncate(path, 20000))
		}, ErrDamaged},
		"changed": {func(t *testing.T, path string) {
			filled(t, path)
			raw, err := os.ReadFile(path)
			check(t, err)
			i := bytes.Index(raw, []byte("payloadpayload"))
			raw[i+5000] ^= 1
			check(t, os.WriteFile(path, raw, 0o600))
		}, ErrDamaged},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store")
			c.make(t, path)
			before, err := os.ReadFile(path)
			check(t, err)
			s, err := Open(path)
			if err == nil {
				err = s.Load(t.Context(), nothing)
				check(t, s.Close())
			}
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "move") {
				t.Errorf("%v", err)
			}
			after, _ := os.ReadFile(path)
			if name != "changed" && !bytes.Equal(before, after) { // Open of that one succeeds, and writes its page of free pages
				t.Error("the file was changed")
			}
		})
	}
	if _, err := Open(t.TempDir()); !errors.Is(err, mqtt.ErrStoreForeign) {
		t.Errorf("a folder: %v", err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "no", "store")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestMaxBytes(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "store"), WithMaxBytes(1000))
	ctx := t.Context()
	check(t, s.Load(ctx, nothing))
	message := func(key string) []mqtt.StoreChange {
		return []mqtt.StoreChange{{Key: []byte(key), Value: make([]byte, 600), Bounded: true}}
	}
	check(t, s.Apply(ctx, message("a")))
	if err := s.Apply(ctx, message("b")); !errors.Is(err, mqtt.ErrQueueFull) {
		t.Errorf("%v", err)
	}
	check(t, s.Apply(ctx, set("how far a has come", strings.Repeat("x", 600))))
	check(t, s.Apply(ctx, []mqtt.StoreChange{{Key: []byte("a")}, {Key: []byte("how far a has come")}}))
	check(t, s.Apply(ctx, message("b")))
}

// A store that is full up to its bound delivers what it has: how far a message has come needs a record more.
func TestMaxBytesDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		s := open(t, filepath.Join(t.TempDir(), "store"), WithMaxBytes(400))
		full := make(chan struct{})
		dial := func(ctx context.Context, network, address string) (net.Conn, error) {
			<-full
			return b.DialContext(ctx, network, address)
		}
		c, err := mqtt.NewClient(t.Context(), "mqtt://broker", mqtt.WithDialer(dial), mqtt.WithStore(s),
			mqtt.WithClientID("c"), mqtt.WithConnectInBackground())
		check(t, err)
		defer c.Close()
		var accepted []*mqtt.Delivery
		for n := 300; n > 0; n-- { // until not even an empty message finds room
			d := c.PublishAsync(t.Context(), "t", make([]byte, n), mqtt.AtLeastOnce)
			if d.Err() == nil {
				accepted = append(accepted, d)
			} else if !errors.Is(d.Err(), mqtt.ErrQueueFull) {
				t.Fatal(d.Err())
			}
		}
		close(full)
		if len(accepted) == 0 {
			t.Fatal("nothing is accepted")
		}
		for _, d := range accepted {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			check(t, d.Wait(ctx))
			cancel()
		}
	})
}

// Close returns an error while a client uses the store, and a second Close is none.
func TestClose(t *testing.T) {
	s, err := Open(filepath.Join(t.TempDir(), "store"))
	check(t, err)
	check(t, s.Load(t.Context(), nothing))
	if err := s.Close(); !errors.Is(err, mqtt.ErrStoreInUse) {
		t.Errorf("%v", err)
	}
	check(t, s.Release())
	check(t, s.Close())
	check(t, s.Close())
	if err := s.Load(t.Context(), nothing); err == nil {
		t.Error("a closed store is loaded")
	}
}

func TestOptions(t *testing.T) {
	for _, opt := range []Option{WithSyncInterval(0), WithMaxBytes(0), WithSeal(nil, nil)} {
		if _, err := Open(filepath.Join(t.TempDir(), "store"), nil, opt); err == nil {
			t.Error("accepted")
		}
	}
}
