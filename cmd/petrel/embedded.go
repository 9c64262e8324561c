package main

import (
	"context"
	"fmt"

	"github.com/petrel-mqtt/mqtt/broker"
)

// embedded starts a broker on a free port of the loopback interface.
func embedded(ctx context.Context) (url string, stop func(), err error) {
	c := broker.DefaultConfig()
	c.Listeners = []broker.Listener{{Name: "bench", Type: "tcp", Bind: "127.0.0.1:0"}}
	b, err := broker.New(c)
	if err == nil {
		err = b.Start(ctx)
	}
	if err != nil {
		return "", nil, fmt.Errorf("the embedded broker: %w", err)
	}
	return b.URLs()[0], func() { b.Shutdown(context.Background()) }, nil
}
