package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
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

// write returns when the file has its name and its whole content, which are on the disk then if durable.
func (d *outDir) write(topic string, payload []byte, durable bool) error {
	const longest = 200 // bytes of a topic; file systems have 255 for a name
	name := url.PathEscape(topic)
	name = name[:min(len(name), longest)]
	draft, err := os.CreateTemp(d.path, ".incoming-*")
	if err != nil {
		return err
	}
	defer os.Remove(draft.Name()) // if it has not been renamed
	_, err = draft.Write(payload)
	if err == nil && durable {
		err = draft.Sync()
	}
	if err := errors.Join(err, draft.Close()); err != nil {
		return err
	}
	for err = fs.ErrExist; errors.Is(err, fs.ErrExist); {
		d.last++
		err = d.place(draft.Name(), filepath.Join(d.path, fmt.Sprintf("%06d-%s", d.last, name)))
	}
	if err == nil && durable {
		err = syncFolder(d.path)
	}
	return err
}

// link is os.Link, but in tests.
var link = os.Link

// place gives a file its name, which nobody has: by a hard link, or where the file system knows none by renaming it over
// an empty file, which others can see for a moment.
func (d *outDir) place(draft, path string) error {
	err := link(draft, path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	reserved, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(reserved.Close(), os.Rename(draft, path))
}

// syncFolder puts the names in a folder on the disk, where that is possible.
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil && !errors.Is(err, errors.ErrUnsupported) && runtime.GOOS != "windows" {
		return err
	}
	return nil
}
