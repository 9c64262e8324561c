package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// startMosquitto starts a Mosquitto on a free port, which drops nothing silently and does not delay small packets.
func startMosquitto() (address string, stop func(), err error) {
	program, err := exec.LookPath("mosquitto")
	if err != nil {
		if program, err = exec.LookPath("/usr/sbin/mosquitto"); err != nil {
			return "", nil, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	address = l.Addr().String()
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	folder, err := os.MkdirTemp("", "benchmarks")
	if err != nil {
		return "", nil, err
	}
	config := filepath.Join(folder, "mosquitto.conf")
	lines := []string{
		fmt.Sprintf("listener %d 127.0.0.1", port), "allow_anonymous true", "max_queued_messages 0", "max_queued_bytes 0",
		fmt.Sprintf("max_inflight_messages %d", window), "set_tcp_nodelay true", "log_type none", "user root", "",
	}
	if err := os.WriteFile(config, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		return "", nil, err
	}
	cmd := exec.Command(program, "-c", config)
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		os.RemoveAll(folder)
	}
	for range 200 {
		if conn, err := net.Dial("tcp", address); err == nil {
			conn.Close()
			return address, stop, nil
		}
		time.Sleep(25 * time.Millisecond)
	}
	stop()
	return "", nil, fmt.Errorf("mosquitto does not listen on %s", address)
}
