//go:build unix

package broker

import (
	"os"
	"syscall"
)

// takeOwner gives a file the owner and the group of another one.
func takeOwner(f *os.File, other os.FileInfo) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	have, want := mine.Sys().(*syscall.Stat_t), other.Sys().(*syscall.Stat_t)
	if have.Uid == want.Uid && have.Gid == want.Gid {
		return nil
	}
	return f.Chown(int(want.Uid), int(want.Gid))
}
