package mqtt_test

import (
	"regexp"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// clientGoroutines returns the goroutines that run the client's code now, by what they began with.
func clientGoroutines() (began []string) {
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	ours := regexp.MustCompile(`petrel-mqtt/mqtt(/internal/link)?\.\(\*(client|supervisor|Link|Subscription)\)\.(\w+)`)
	for _, stack := range strings.Split(string(stacks), "\n\n") {
		if calls := ours.FindAllStringSubmatch(stack, -1); calls != nil && !strings.Contains(stack, "testing.tRunner") {
			began = append(began, calls[len(calls)-1][3])
		}
	}
	return began
}

// A client has three goroutines, while it is idle and after all that it may do, and none after Close. A subscription has
// one more while something waits in its line.
func TestGoroutines(t *testing.T) {
	inBothVersions(t, func(t *testing.T, v codec.Version) {
		want := func(when string, n int) {
			t.Helper()
			synctest.Wait()
			if got := clientGoroutines(); len(got) != n {
				t.Errorf("%s: goroutines %v, want %d", when, got, n)
			}
		}
		b := mqtttest.NewBroker(t)
		c := reconnectingAs(t, v, b.DialContext, mqtt.WithTrace(&mqtt.Trace{StateChanged: func(mqtt.State, mqtt.State) {}}))
		want("connected", 3)
		sub := subscribe(t, c, "t", mqtt.AtLeastOnce, mqtt.Buffer(1))
		noErr(t, c.Publish(t.Context(), "t", nil, mqtt.ExactlyOnce))
		want("in use", 3)
		for range 3 {
			b.Publish(text("t", "x", 1))
		}
		want("while messages wait", 4)
		for range 4 {
			<-sub.Messages()
		}
		want("when they are taken", 3)
		b.Cut()
		time.Sleep(time.Minute)
		want("connected again", 3)
		b.Offline()
		want("while waiting", 1)
		c.Close()
		want("closed", 0)
	})
}
