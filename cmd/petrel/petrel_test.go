package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/mqtttest"
)

var update = flag.Bool("update", false, "write the files that tests compare with")

// asProgram has the test's program be petrel itself, for what needs a process of its own.
const asProgram = "TEST_AS_PETREL"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	time.Local = time.UTC
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "PETREL_") {
			os.Unsetenv(name)
		}
	}
	flag.Parse()
	os.Exit(m.Run())
}

// patience is how long anything may take, on a machine that is busy: it ends what hangs.
const patience = 2 * time.Minute

// result is what a command line has done.
type result struct {
	code        int
	out, errors string
}

// run runs a command line. Its connections lead to the broker, if there is one.
func run(ctx context.Context, b *mqtttest.Broker, stdin string, args ...string) result {
	root := newRoot()
	var out, errors bytes.Buffer
	root.SetIn(strings.NewReader(stdin))
	root.SetOut(&out)
	root.SetErr(&errors)
	if b != nil {
		ctx = context.WithValue(ctx, dialerKey{}, dialer(b.DialContext))
	}
	code := execute(ctx, root, args)
	return result{code, out.String(), errors.String()}
}
