//go:build unix

package broker

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A password file that root changes stays readable for the broker, which is somebody else.
func TestWriteKeepsOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can give files away")
	}
	path := writeFile(t, filepath.Join(t.TempDir(), "passwd"), "")
	check(t, os.Chmod(path, 0o640))
	check(t, os.Chown(path, 4711, 4712))
	p, err := ParsePasswords(nil)
	check(t, err)
	check(t, p.Write(path))
	info, err := os.Stat(path)
	check(t, err)
	if s := info.Sys().(*syscall.Stat_t); s.Uid != 4711 || s.Gid != 4712 || info.Mode().Perm() != 0o640 {
		t.Errorf("owner %d, group %d, mode %v", s.Uid, s.Gid, info.Mode())
	}
}
