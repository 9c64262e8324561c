// Command petrel publishes, subscribes, asks, answers and measures with MQTT 5.0 and 3.1.1, and runs a broker.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, interrupt := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	// Who connects ends when its terminal goes away, too. A broker has another use for this signal.
	ctx = context.WithValue(ctx, hangupKey{}, func() {
		if !signal.Ignored(syscall.SIGHUP) { // as it is for nohup
			signal.Notify(signals, syscall.SIGHUP)
		}
	})
	go func() {
		<-signals
		interrupt()
		<-signals // it is to end at once
		underWay.kill()
		os.Exit(exitInterrupted)
	}()
	// Who reads our output may go away: the write fails then, and the connection ends as it should.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(execute(ctx, newRoot(), os.Args[1:]))
}

// hangupKey is the key of a context's value, a function that has SIGHUP end the command as Ctrl-C does.
type hangupKey struct{}
