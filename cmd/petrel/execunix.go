//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// setApart gives a command a process group of its own: Ctrl-C at the terminal is for us, who wait for it, and killing it
// ends its children too.
func setApart(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
