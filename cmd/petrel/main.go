// Command petrel publishes, subscribes, asks, answers and measures with MQTT 5.0 and 3.1.1, and runs a broker.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	// Who reads our output may go away: the write fails then, and the connection ends as it should.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	os.Exit(execute(ctx, newRoot()))
}
