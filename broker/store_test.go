package broker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
)

// A persistence file that is mostly free is rewritten at the next start, with everything that is in it and under its lock.
func TestRewrite(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/petrel.db"
	writeFile(t, path+".rewrite", "what a crash has left")
	s, err := openStore(path)
	check(t, err)
	value := bytes.Repeat([]byte("x"), 1000)
	key := func(i int) []byte { return binary.BigEndian.AppendUint64(nil, uint64(i)) }
	const n, kept = 5000, 100
	var put, remove []engine.Change
	for i := range n {
		put = append(put, engine.Change{Bucket: 'm', Key: key(i), Value: value})
		if i >= kept {
			remove = append(remove, engine.Change{Bucket: 'm', Key: key(i)})
		}
	}
	check(t, s.Commit(put))
	check(t, s.Commit(remove))
	check(t, s.Close())
	before := sizeOf(t, path)

	s, err = openStore(path)
	check(t, err)
	if after := sizeOf(t, path); after > before/4 {
		t.Errorf("%d bytes became %d", before, after)
	}
	if _, err := os.Stat(path + ".rewrite"); err == nil {
		t.Error("the draft is still there")
	}
	if _, err := openStore(path); !errors.Is(err, errInUse) {
		t.Errorf("a second broker: %v", err)
	}
	check(t, s.Commit([]engine.Change{{Bucket: 'm', Key: key(n), Value: value}}))
	check(t, s.Close())

	s, err = openStore(path)
	check(t, err)
	found := 0
	check(t, s.Load(func(_ byte, _, v []byte) error {
		if found++; !bytes.Equal(v, value) {
			t.Errorf("%d bytes", len(v))
		}
		return nil
	}))
	if found != kept+1 {
		t.Errorf("%d values", found)
	}
	check(t, s.Close())
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	check(t, err)
	return info.Size()
}
