package interop

import (
	"fmt"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

// delayed is a piece of a stream, and when it arrives.
type delayed struct {
	due   time.Time
	bytes []byte
}

// startDistance starts a long line to a server, a host:port: what is sent arrives after half a round trip, however much it is. It
// returns the host:port of its near end.
func startDistance(t *testing.T, address string, roundTrip time.Duration) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", address)
			if err != nil {
				near.Close()
				continue
			}
			running.Go(func() { carry(far, near, roundTrip/2) })
			running.Go(func() { carry(near, far, roundTrip/2) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait() // the ends have closed their connections
	})
	return l.Addr().String()
}

// carry moves bytes one way.
func carry(to, from net.Conn, delay time.Duration) {
	line := make(chan delayed, 10_000)
	go func() {
		defer close(line)
		for {
			b := make([]byte, 16<<10)
			n, err := from.Read(b)
			if err != nil {
				return
			}
			line <- delayed{time.Now().Add(delay), b[:n]}
		}
	}()
	for piece := range line {
		<-time.After(time.Until(piece.due))
		if _, err := to.Write(piece.bytes); err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	for range line { // until the reader has noticed
	}
}

// A window of messages is on its way at any time, so that over a distance a window arrives in each round trip, in both
// directions. The bound leaves room for a slow machine; on a quiet one nearly all of it is reached. The distance is so long that
// 20 messages in each round trip, which is what a client without a window of its own has, are below the bound.
func TestThroughputOverADistance(t *testing.T) {
	const (
		roundTrip = 400 * time.Millisecond
		window    = 1024 // both Mosquitto's and ours
		messages  = 4 * window
	)
	server := startFortress(t, unboundedQueues, fmt.Sprintf("max_inflight_messages %d", window)) // 20 are too few for a distance
	possible := float64(window) / roundTrip.Seconds()
	judge := func(t *testing.T, began time.Time, n int) {
		rate := float64(n) / time.Since(began).Seconds()
		t.Logf("%.0f messages in a second, %.0f %% of a window in each round trip", rate, 100*rate/possible)
		if rate < possible/20 {
			t.Errorf("only %.0f messages in a second, of %.0f that the window allows", rate, possible)
		}
	}
	for _, name := range []string{"mqtt", "mqtts"} {
		near := server.endpoints[name]
		far := near
		to, err := url.Parse(near.url)
		check(t, err)
		far.url = fmt.Sprintf("%s://%s", name, startDistance(t, "127.0.0.1:"+to.Port(), roundTrip))
		t.Run(name+"/publishing", func(t *testing.T) {
			ctx := within(t)
			c, err := mqtt.NewClient(ctx, far.url, mqtt.Options(far.opts))
			check(t, err)
			defer c.Close()
			began := time.Now()
			deliveries := make([]*mqtt.Delivery, messages)
			for i := range deliveries {
				deliveries[i] = c.PublishAsync(ctx, "distance/up", make([]byte, 64), mqtt.AtLeastOnce)
			}
			for _, d := range deliveries {
				check(t, d.Wait(ctx))
			}
			judge(t, began, messages)
		})
		t.Run(name+"/receiving", func(t *testing.T) {
			ctx := within(t)
			c, err := mqtt.NewClient(ctx, far.url, mqtt.Options(far.opts))
			check(t, err)
			defer c.Close()
			sub, err := c.Subscribe(ctx, "distance/down", mqtt.AtLeastOnce)
			check(t, err)
			publisher, err := mqtt.NewClient(ctx, near.url, mqtt.Options(near.opts))
			check(t, err)
			defer publisher.Close()
			var last *mqtt.Delivery
			began := time.Now()
			for range messages {
				last = publisher.PublishAsync(ctx, "distance/down", make([]byte, 64), mqtt.AtLeastOnce)
			}
			for range messages {
				_, err := sub.Next(ctx)
				check(t, err)
			}
			judge(t, began, messages)
			check(t, last.Wait(ctx))
		})
	}
}
