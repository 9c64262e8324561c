package interop

import (
	"flag"
	"testing"
)

// unexplained plays the tests that have failed against a real server for a reason that is not known yet.
var unexplained = flag.Bool("unexplained", false, "play tests with failures that are not explained")

// onlyUnexplained ends a test unless they are asked for.
func onlyUnexplained(t *testing.T) {
	if !*unexplained {
		t.Skip("fails now and then for a reason that is not known: play it with -unexplained")
	}
}
