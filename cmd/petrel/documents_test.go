package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

const repository = "../.."

// typed is a line of a page that is typed into a shell.
type typed struct {
	where, line string
}

// shellCommand is what a line of the documentation may begin with. A word that is not here is a mistake, or new.
var shellCommand = regexp.MustCompile(`^(?:[A-Z_]+=\S+ )*(?:env (?:-u [A-Z]+ )?)?(petrel|go|tail|curl|mosquitto|mosquitto_pub|mosquitto_sub|openssl|echo|kill)\b`)

// typedLines returns the lines of all blocks that are marked as sh, and of all indented blocks that have a command.
func typedLines(t *testing.T) (all []typed) {
	t.Helper()
	pages, _ := filepath.Glob(filepath.Join(repository, "docs", "*.md"))
	deeper, _ := filepath.Glob(filepath.Join(repository, "docs", "*", "*.md"))
	for _, name := range append(append(pages, deeper...), filepath.Join(repository, "README.md")) {
		if filepath.Base(name) == "CLI.md" { // it is what the program says itself
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		fence := ""
		for i, line := range strings.Split(string(text), "\n") {
			where := fmt.Sprintf("%s:%d", filepath.Base(name), i+1)
			indented, isIndented := strings.CutPrefix(line, "    ")
			switch mark, isFence := strings.CutPrefix(strings.TrimSpace(line), "```"); {
			case isFence && fence == "":
				fence = "```" + mark
			case isFence:
				fence = ""
			case fence == "```sh" && !shellCommand.MatchString(line) && line != "" && !strings.HasPrefix(line, "#"):
				t.Errorf("%s: no known command: %s", where, line)
			case fence == "```sh", fence == "" && isIndented && shellCommand.MatchString(indented):
				all = append(all, typed{where, strings.TrimSpace(line)})
			}
		}
	}
	if len(all) < 30 {
		t.Fatalf("only %d shellCommand: are they found?", len(all))
	}
	return all
}

// words returns the command lines of petrel and go in a line, as a shell understands them.
func (d typed) words(t *testing.T) (all [][]string) {
	t.Helper()
	const script = `
petrel() { printf '%s\0' petrel "$@" '' >&3; }
go() { printf '%s\0' go "$@" '' >&3; }
`
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", script+d.line)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = t.TempDir(), []string{"PATH=/nonexistent"}, []*os.File{writer}
	cmd.Run() // what is not there fails
	writer.Close()
	var out bytes.Buffer
	out.ReadFrom(reader)
	reader.Close()
	for line := range strings.SplitSeq(out.String(), "\x00\x00") { // an empty word ends a command line
		if line != "" {
			all = append(all, strings.Split(line, "\x00"))
		}
	}
	return all
}

// Every command line of petrel in the documentation has flags that exist, and every one of go names packages and tests that do.
func TestDocumentedCommands(t *testing.T) {
	for _, d := range typedLines(t) {
		for _, words := range d.words(t) {
			check := checkGo
			if words[0] == "petrel" {
				check = checkPetrel
			}
			if err := check(words[1:]); err != nil {
				t.Errorf("%s: %s: %v", d.where, d.line, err)
			}
		}
	}
}

// The test above finds what it is for.
func TestDocumentedFaults(t *testing.T) {
	for line, good := range map[string]bool{
		"petrel pub -t 'a b' -m 1 | petrel sub -t a # or so": true,
		"petrel pub --nothing":                               false,
		"petrel nothing":                                     false,
		"tail -f x | petrel pub -t a --lnes":                 false,
		"go run ./examples/quickstart":                       true,
		"go run ./examples/nothing":                          false,
		"go -C boltstore test -run TestKill -v .":            true,
		"go -C boltstore test -run TestNothing .":            false,
		"go get github.com/petrel-mqtt/mqtt/scram":           true,
		"go get github.com/petrel-mqtt/mqtt/nothing":         false,
	} {
		var err error
		for _, words := range (typed{"", line}).words(t) {
			check := checkGo
			if words[0] == "petrel" {
				check = checkPetrel
			}
			if e := check(words[1:]); e != nil {
				err = e
			}
		}
		if (err == nil) != good {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func checkPetrel(args []string) error {
	root := newRoot()
	cmd, rest, err := root.Find(args)
	if err != nil {
		return err
	}
	if cmd == root && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		return fmt.Errorf("no command %s", args[0])
	}
	cmd.InitDefaultHelpFlag()
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return cmd.ValidateArgs(cmd.Flags().Args())
}

// checkGo follows the packages and the tests that a command line of go names to their files.
func checkGo(args []string) error {
	folder, test := repository, ""
	var packages []string
	for i := 0; i < len(args); i++ {
		switch a := args[i]; {
		case a == "-C":
			i++
			folder = filepath.Join(repository, args[i])
		case a == "-run" || a == "-bench" || a == "-fuzz":
			i++
			if name := strings.Trim(args[i], "^$"); name != "" && name != "-" {
				test = name
			}
		case a == "./subscriber", a == "./publisher": // the programs of docs/getting-started.md
		case strings.HasPrefix(a, "."):
			packages = append(packages, filepath.Join(folder, a))
		case strings.HasPrefix(a, "github.com/petrel-mqtt/mqtt"):
			a, _, _ = strings.Cut(strings.TrimPrefix(a, "github.com/petrel-mqtt/mqtt"), "@")
			packages = append(packages, filepath.Join(repository, a))
		}
	}
	for _, p := range packages {
		files, _ := filepath.Glob(filepath.Join(p, "*.go"))
		if len(files) == 0 {
			return fmt.Errorf("no package in %s", p)
		}
		if test != "" && !declares(files, test) {
			return fmt.Errorf("no test %s in %s", test, p)
		}
	}
	return nil
}

func declares(files []string, test string) bool {
	declaration := regexp.MustCompile(`(?m)^func (Test|Benchmark|Fuzz)?` + test)
	for _, name := range files {
		if text, err := os.ReadFile(name); err == nil && declaration.Match(text) {
			return true
		}
	}
	return false
}

var program = regexp.MustCompile("(?ms)^```go\n(package main\n.*?)^```$")

// The programs of the first page do what it says, with the broker and the command line of the page.
func TestGettingStarted(t *testing.T) {
	b := startBroker(t, "--bind", "127.0.0.1:0")
	t.Setenv("PETREL_URL", b.url)
	subscriber, publisher := firstPrograms(t, strings.TrimPrefix(b.url, "mqtt://"))
	reading := exec.CommandContext(t.Context(), subscriber)
	out, err := reading.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := reading.Start(); err != nil {
		t.Fatal(err)
	}
	line := make(chan string, 2)
	go func() {
		buffer := make([]byte, 100)
		for n, err := out.Read(buffer); err == nil; n, err = out.Read(buffer) {
			line <- string(buffer[:n])
		}
	}()
	first := ""
	for give := time.Now().Add(patience); first == "" && time.Now().Before(give); { // until it has subscribed
		if said, err := exec.Command(publisher).CombinedOutput(); err != nil {
			t.Fatalf("the publisher: %v: %s", err, said)
		}
		select {
		case first = <-line:
		case <-time.After(200 * time.Millisecond):
		}
	}
	if !strings.HasPrefix(first, "greetings/en: hello\n") {
		t.Errorf("the subscriber says %q", first)
	}
	if r := run(t.Context(), nil, "", "pub", "-t", "greetings/en", "-m", "hello", "-q", "1"); r.code != 0 {
		t.Errorf("petrel pub: %s", r.errors)
	}
	reading.Process.Signal(os.Interrupt)
	if err := reading.Wait(); err != nil {
		t.Errorf("the subscriber after Ctrl-C: %v", err)
	}
}

// firstPrograms builds the two programs of the page for a server.
func firstPrograms(t *testing.T, server string) (subscriber, publisher string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, "docs", "getting-started.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := program.FindAllSubmatch(text, -1)
	if len(found) != 2 {
		t.Fatalf("%d programs", len(found))
	}
	folder := t.TempDir()
	root, err := filepath.Abs(repository)
	if err != nil {
		t.Fatal(err)
	}
	overlay := map[string]map[string]string{"Replace": {}} // so that they are packages of the module
	for i, f := range found {
		source := filepath.Join(folder, fmt.Sprint("source", i))
		code := bytes.ReplaceAll(f[1], []byte("localhost:1883"), []byte(server))
		if err := os.WriteFile(source, code, 0o600); err != nil {
			t.Fatal(err)
		}
		overlay["Replace"][filepath.Join(root, "examples", fmt.Sprint("first", i), "main.go")] = source
	}
	list, _ := json.Marshal(overlay)
	overlayFile := filepath.Join(folder, "overlay")
	if err := os.WriteFile(overlayFile, list, 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range found {
		cmd := exec.Command("go", "build", "-overlay", overlayFile, "-o", filepath.Join(folder, fmt.Sprint("first", i)), "./examples/"+fmt.Sprint("first", i))
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return filepath.Join(folder, "first0"), filepath.Join(folder, "first1")
}
