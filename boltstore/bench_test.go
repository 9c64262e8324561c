package boltstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// BenchmarkAccept measures how many messages of 100 bytes are accepted without a connection, by so many publishers that each wait
// for the disk.
func BenchmarkAccept(b *testing.B) {
	for name, opts := range map[string][]Option{"always": nil, "interval": {WithSyncInterval(100 * time.Millisecond)}} {
		for _, publishers := range []int{1, 16, 256} {
			b.Run(fmt.Sprintf("%s/%d", name, publishers), func(b *testing.B) {
				s := open(b, filepath.Join(b.TempDir(), "store"), opts...)
				offline := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("offline") }
				c, err := mqtt.NewClient(b.Context(), "mqtt://test", mqtt.WithStore(s), mqtt.WithConnectInBackground(),
					mqtt.WithDialer(offline), mqtt.WithQueue(1<<30, math.MaxInt))
				check(b, err)
				defer c.Close()
				payload := make([]byte, 100)
				work := make(chan struct{})
				done := make(chan error)
				for range publishers {
					go func() {
						var err error
						for range work {
							err = errors.Join(err, c.PublishAsync(b.Context(), "t", payload, mqtt.AtLeastOnce).Err())
						}
						done <- err
					}()
				}
				for b.Loop() {
					work <- struct{}{}
				}
				close(work)
				for range publishers {
					check(b, <-done)
				}
			})
		}
	}
}
