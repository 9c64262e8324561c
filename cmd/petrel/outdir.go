package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// outDir writes each message into a file of its own: 000001-sensors%2F7. The numbers go on where an
// earlier run has ended.
type outDir struct {
	path string
	last int
}

func newOutDir(path string) (*outDir, error) {
	if err := os.MkdirAll(path, 0o777); err != nil {
		return nil, usagef("--out-dir: %w", err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, usagef("--out-dir: %w", err)
	}
	d := &outDir{path: path}
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), "-")
		if n, err := strconv.Atoi(number); err == nil {
			d.last = max(d.last, n)
		}
	}
	return d, nil
}

// write returns when the file has its name and its whole content.
func (d *outDir) write(topic string, payload []byte) error {
	const longest = 200 // bytes of a topic; file systems have 255 for a name
	name := url.PathEscape(topic)
	name = name[:min(len(name), longest)]
	draft, err := os.CreateTemp(d.path, ".incoming-*")
	if err != nil {
		return err
	}
	defer os.Remove(draft.Name())
	_, err = draft.Write(payload)
	if err := errors.Join(err, draft.Close()); err != nil {
		return err
	}
	for {
		d.last++
		err := os.Link(draft.Name(), filepath.Join(d.path, fmt.Sprintf("%06d-%s", d.last, name)))
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
}
