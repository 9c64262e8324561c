//go:build unix

package broker

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A password file that root changes stays readable for the broker, which is somebody else. Others can give a file only to
// another group of theirs.
func TestWriteKeepsOwner(t *testing.T) {
	uid, gid := 4711, 4712
	if os.Getuid() != 0 {
		uid, gid = os.Getuid(), os.Getgid()
		if groups, err := os.Getgroups(); err == nil && len(groups) > 0 {
			gid = groups[len(groups)-1]
		}
	}
	path := writeFile(t, filepath.Join(t.TempDir(), "passwd"), "")
	check(t, os.Chmod(path, 0o640))
	check(t, os.Chown(path, uid, gid))
	p, err := ParsePasswords(nil)
	check(t, err)
	check(t, p.Write(path))
	info, err := os.Stat(path)
	check(t, err)
	if s := info.Sys().(*syscall.Stat_t); int(s.Uid) != uid || int(s.Gid) != gid || info.Mode().Perm() != 0o640 {
		t.Errorf("owner %d, group %d, mode %v", s.Uid, s.Gid, info.Mode())
	}
}
