package migration

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// The programs before and after do the same, through a lost connection and to their end.
func TestPrograms(t *testing.T) {
	folder := t.TempDir()
	for _, program := range []struct{ folder, filter, clientID string }{
		{"v3/before", "orders/+", "billing"},
		{"v3/after", "orders/+", "billing"},
		{"v5/before", "$share/billing/orders/+", "billing-1"},
		{"v5/after", "$share/billing/orders/+", "billing-1"},
	} {
		t.Run(program.folder, func(t *testing.T) {
			binary := filepath.Join(folder, strings.ReplaceAll(program.folder, "/", "-"))
			build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./"+program.folder)
			if out, err := build.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			before := strings.HasSuffix(program.folder, "before")
			var forbidden []string
			if before { // what the other libraries do now and then, after a lost connection and at the end
				forbidden = []string{"MQTT-3.14.4-1", "MQTT-4.4.0-1", "MQTT-4.6.0-1", "MQTT-4.6.0-2"}
			}
			broker := mqtttest.New(mqtttest.Tolerate(forbidden...))
			defer broker.Close()
			play(t, broker, binary, program.filter, program.clientID)
			for _, v := range broker.Violations() {
				if !before {
					t.Error(v)
				}
			}
		})
	}
}

// play runs a program that has to answer orders before and after a lost connection, and to say whether it is online.
func play(t *testing.T, broker *mqtttest.Broker, binary, filter, clientID string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	program := exec.CommandContext(ctx, binary, "-server", broker.Listen())
	program.Stdout, program.Stderr = t.Output(), t.Output()
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- program.Wait(); close(ended) }()
	defer func() { cancel(); <-ended }()

	order(ctx, t, broker, filter, 1, 2, 3)
	broker.Await(ctx, "status/billing", 1) // online
	broker.Cut(clientID)
	broker.Await(ctx, "status/billing", 3) // the will, and online again
	order(ctx, t, broker, filter, 4, 5, 6)
	if err := program.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the program's end: %v", err)
	}
	checkStatus(t, broker)
}

// order publishes orders and waits for the bill of each. There may be more: what was in flight at the cut comes again.
func order(ctx context.Context, t *testing.T, broker *mqtttest.Broker, filter string, numbers ...int) {
	t.Helper()
	if err := broker.AwaitSubscription(ctx, filter); err != nil {
		t.Fatal(err)
	}
	for _, n := range numbers {
		broker.Publish(mqtttest.Message{Topic: fmt.Sprint("orders/", n), Payload: []byte("owls"), QoS: 1})
	}
	for _, n := range numbers {
		bills := broker.Await(ctx, fmt.Sprint("bills/", n), 1)
		if len(bills) == 0 || string(bills[0].Payload) != "bill for owls" {
			t.Fatalf("order %d: %v, want a bill for owls", n, bills)
		}
	}
}

// checkStatus checks what the program has said of itself. It may have said it twice.
func checkStatus(t *testing.T, broker *mqtttest.Broker) {
	var said []string
	for _, m := range broker.Received("status/billing") {
		said = append(said, string(m.Payload))
		if !m.Retain {
			t.Errorf("%s is not retained", m.Payload)
		}
	}
	if got, want := slices.Compact(said), []string{"online", "offline", "online", "offline"}; !slices.Equal(got, want) {
		t.Errorf("status: %q, want %q", got, want)
	}
}
