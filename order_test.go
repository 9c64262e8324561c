package mqtt_test

import (
	"fmt"
	"go/ast"
	"go/types"
	"os"
	"slices"
	"strings"
	"testing"
)

// fileOrder is the order of the root's files, from the ground up. The functions of a file call only functions of the same
// file and of rows above it in this list. Files of one row do not call each other.
var fileOrder = [][]string{
	{"errors.go", "handle_options.go", "matchtopic.go", "properties.go", "publish_options.go", "redact.go", "trace.go", "transport_options.go", "waitlist.go"},
	{"core.go", "store.go", "subscribe_options.go"},
	{"compose.go", "outcome.go"},
	{"journal.go"},
	{"delivery.go"},
	{"auth.go", "call.go", "outbox.go"},
	{"handshake.go", "inbox.go", "persist.go", "publish.go", "reconnect.go", "suspicion.go"},
	{"config.go", "line.go"},
	{"options.go", "subscription.go"},
	{"deliver.go", "forward.go", "message.go", "take.go"},
	{"consume.go", "disconnect_options.go", "handle.go", "park.go"},
	{"end.go", "respond.go"},
	{"stall.go", "subscribe.go", "unsubscribe.go"},
	{"request.go", "resubscribe.go"},
	{"probe.go"},
	{"acknowledged.go", "answer.go", "arrive.go"},
	{"receive.go"},
	{"connect.go"},
	{"supervise.go"},
	{"client.go", "status.go"},
	{"drain.go", "mqtt.go"},
	{"versions.go"},
}

// callAcross is a function of one file that calls a function of another file, or passes it on.
type callAcross struct {
	caller, callerFile string
	callee, calleeFile string
}

// callsAcross returns all of a package's.
func callsAcross(s *sourceCode) []callAcross {
	var calls []callAcross
	bodies := s.bodies()
	for _, file := range s.files {
		for _, decl := range file.Decls {
			caller := "a variable"
			if d, ok := decl.(*ast.FuncDecl); ok {
				caller = title(s.info.Defs[d.Name].(*types.Func))
			}
			s.used(decl, func(_ *ast.Ident, f *types.Func) {
				if bodies[f] == nil {
					return // of another package, or of an interface
				}
				c := callAcross{caller, s.file(decl.Pos()), title(f), s.file(f.Pos())}
				if c.callerFile != c.calleeFile && !slices.Contains(calls, c) {
					calls = append(calls, c)
				}
			})
		}
	}
	return calls
}

// outOfOrder says what breaks an order of files.
func outOfOrder(s *sourceCode, order [][]string) []string {
	rows := make(map[string]int)
	var faults []string
	for i, row := range order {
		for _, file := range row {
			rows[file] = i
		}
	}
	present := make(map[string]bool)
	for _, f := range s.files {
		name := s.file(f.Pos())
		present[name] = true
		if _, ok := rows[name]; !ok {
			faults = append(faults, fmt.Sprintf("%s has no place in the order", name))
		}
	}
	for _, row := range order {
		for _, file := range row {
			if !present[file] {
				faults = append(faults, fmt.Sprintf("%s is in the order and does not exist", file))
			}
		}
	}
	for _, c := range callsAcross(s) {
		if rows[c.callerFile] <= rows[c.calleeFile] {
			faults = append(faults, fmt.Sprintf("%s in %s must not use %s in %s", c.caller, c.callerFile, c.callee, c.calleeFile))
		}
	}
	return faults
}

func TestFileOrder(t *testing.T) {
	for _, fault := range outOfOrder(root(t), fileOrder) {
		t.Error(fault)
	}
}

// testerOrder is the order of mqtttest's files.
var testerOrder = [][]string{
	{"alarm.go", "conn.go", "doc.go", "fault.go", "frames.go", "framing.go", "ledger.go", "message.go", "network.go", "record.go",
		"subscription.go", "tls.go", "violation.go", "websocket.go"},
	{"deliver.go", "late.go", "options.go", "rules.go", "script.go"},
	{"referee.go", "retain.go", "route.go"},
	{"publish.go", "subscribe.go"},
	{"will.go"},
	{"session.go"},
	{"end.go"},
	{"auth.go", "control.go", "write.go"},
	{"broker.go", "connect.go"},
	{"receive.go"},
	{"serve.go"},
	{"listen.go"},
	{"server.go"},
}

func TestFilesOfTester(t *testing.T) {
	s, err := readSource("mqtttest")
	noErr(t, err)
	faults := append(outOfOrder(s, testerOrder), oversized(s, mostFields, mostMethods)...)
	for _, fault := range faults {
		t.Error(fault)
	}
}

// The test above must be able to fail, and say which two functions are to blame.
func TestOutOfOrder(t *testing.T) {
	order := [][]string{{"ground.go"}, {"left.go", "right.go"}, {"top.go"}}
	const ground = "type T struct{}; func (T) M() {}; func ground() {}; type I interface{ top() }"
	for _, c := range []struct {
		name   string
		texts  map[string]string
		faults []string
	}{
		{"in order", map[string]string{
			"ground.go": ground, "left.go": "func left() { ground() }", "right.go": "func right() { T{}.M() }", "top.go": "func top() { left(); right() }",
		}, nil},
		{"a call upwards", map[string]string{
			"ground.go": ground + "; func (t *T) up() { left() }", "left.go": "func left() {}", "right.go": "", "top.go": "",
		}, []string{"T.up in ground.go must not use left in left.go"}},
		{"a method called upwards", map[string]string{
			"ground.go": "func up(t T) { t.M() }", "left.go": "type T struct{}; func (*T) M() {}", "right.go": "", "top.go": "",
		}, []string{"up in ground.go must not use T.M in left.go"}},
		{"a function handed on", map[string]string{
			"ground.go": ground, "left.go": "func left() { f := top; f() }", "right.go": "", "top.go": "func top() {}",
		}, []string{"left in left.go must not use top in top.go"}},
		{"a variable", map[string]string{
			"ground.go": ground + "; var v = top()", "left.go": "", "right.go": "", "top.go": "func top() int { return 0 }",
		}, []string{"a variable in ground.go must not use top in top.go"}},
		{"side by side", map[string]string{
			"ground.go": ground, "left.go": "func left() { right() }", "right.go": "func right() {}", "top.go": "",
		}, []string{"left in left.go must not use right in right.go"}},
		{"through an interface", map[string]string{
			"ground.go": ground + "; func up(i I) { i.top() }", "left.go": "", "right.go": "", "top.go": "func (T) top() {}",
		}, nil},
		{"of a generic type", map[string]string{
			"ground.go": "type G[E any] struct{}; func up(g G[int]) { g.M() }", "left.go": "func (G[E]) M() {}", "right.go": "", "top.go": "",
		}, []string{"up in ground.go must not use G.M in left.go"}},
		{"a file without a place", map[string]string{
			"ground.go": "", "left.go": "", "right.go": "", "other.go": "",
		}, []string{"other.go has no place in the order", "top.go is in the order and does not exist"}},
	} {
		if got := outOfOrder(parseText(t, c.texts), order); !slices.Equal(got, c.faults) {
			t.Errorf("%s: %q, want %q", c.name, got, c.faults)
		}
	}
}

// ARCHITECTURE.md shows the same order from the top down: a line for each file that says what belongs there, and a rule
// between two rows.
func TestPictureOfFiles(t *testing.T) {
	text, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## The root's files\n")
	section, _, _ = strings.Cut(section, "\n## ")
	shown := [][]string{nil}
	for line := range strings.Lines(section) {
		name, about, _ := strings.Cut(strings.TrimPrefix(line, "    "), " ")
		switch {
		case !strings.HasPrefix(line, "    "):
		case strings.HasPrefix(line, "    ─"):
			shown = append(shown, nil)
		case strings.TrimSpace(about) == "":
			t.Errorf("ARCHITECTURE.md does not say what belongs into %s", name)
		default:
			shown[len(shown)-1] = append(shown[len(shown)-1], name)
		}
	}
	slices.Reverse(shown)
	if !slices.EqualFunc(shown, fileOrder, slices.Equal[[]string]) {
		t.Errorf("ARCHITECTURE.md shows the files in the order\n%q\nand fileOrder is\n%q", shown, fileOrder)
	}
}
