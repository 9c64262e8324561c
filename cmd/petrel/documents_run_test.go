//go:build unix

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// desk is the place where the commands of the pages are typed: a folder with the files that they name, servers for the URLs
// in them, and petrel in the PATH.
type desk struct {
	folder      string
	environment []string
	places      *strings.Replacer // of what stands in a page for a server, a port or a folder, by what is here
}

func newDesk(t *testing.T) *desk {
	plain := startBroker(t, "--bind", "127.0.0.1:0")
	d := &desk{folder: certificates(t)}
	d.write(t, "petrel.yaml", "listeners: {default: {bind: '127.0.0.1:0'}}\npersistence-file: petrel.db\n")
	d.write(t, "secure.yaml", "listeners: {default: {bind: '127.0.0.1:0', ssl: on, certfile: "+d.folder+"/cert.pem, keyfile: "+d.folder+"/key.pem}}\n")
	d.write(t, "readings.log", "21.5\n")
	d.write(t, "work.sh", "#!/bin/sh\necho worked\n")
	program, err := os.Executable()
	check(t, err)
	d.write(t, "petrel", "#!/bin/sh\n"+asProgram+"=1 exec '"+program+"' \"$@\"\n")
	d.write(t, "jq", "#!/bin/sh\nexec cat\n") // what it does with an object is not our matter
	fillStore(t, filepath.Join(d.folder, "outgoing.db"))
	secure := startBroker(t, "-c", filepath.Join(d.folder, "secure.yaml"))
	cloud := strings.Replace(secure.url, "127.0.0.1", "localhost", 1)
	d.places = strings.NewReplacer("mqtts://broker.example.com", cloud, "mqtts://cloud.example.com", cloud, "mqtt://broker.example.com", plain.url,
		"mqtt://localhost", plain.url, "0.0.0.0:1883", "127.0.0.1:0", "/var/lib/petrel", d.folder)
	d.environment = append(os.Environ(), "PATH="+d.folder+":"+os.Getenv("PATH"), "SSL_CERT_FILE="+d.folder+"/ca.pem", "PETREL_URL="+plain.url)
	for _, topic := range []string{"sensors/7/temp", "greetings/en", "jobs", "a/b"} { // for whoever subscribes
		for _, url := range []string{"mqtt://broker.example.com", "mqtts://broker.example.com"} {
			d.enter(t, "petrel pub --url "+url+" -t "+topic+" -m 1 -q 1 -r")
		}
	}
	return d
}

func (d *desk) write(t *testing.T, name, text string) {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(d.folder, name), []byte(text), 0o700))
}

// output is what a command has written so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// job is a command line that runs, with all that its shell has started.
type job struct {
	*testing.T
	output
	line  string
	group int
	ended chan error
}

// ownPort is the broker's port when nothing else is said, which another program may have.
var ownPort = regexp.MustCompile(`^petrel broker( *(?:#.*)?)$`)

// start types a line.
func (d *desk) start(t *testing.T, line string) *job {
	t.Helper()
	line = ownPort.ReplaceAllString(d.places.Replace(line), "petrel broker --bind 127.0.0.1:0$1")
	line = strings.Replace(line, "petrel bench pubsub ", "petrel bench pubsub --duration 0.2 ", 1)
	if strings.HasPrefix(line, "petrel ") && !strings.Contains(line, "|") {
		line = "exec " + line // so that what it returns is what petrel returns
	}
	j := &job{T: t, line: line, ended: make(chan error, 1)}
	cmd := exec.Command("/bin/sh", "-c", line)
	cmd.Dir, cmd.Env = d.folder, d.environment
	if strings.Contains(line, " -u ") {
		cmd.Env = append(cmd.Env, "PETREL_PASSWORD=secret")
	}
	cmd.Stdout, cmd.Stderr = &j.output, &j.output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	check(t, cmd.Start())
	j.group = cmd.Process.Pid
	go func() { j.ended <- cmd.Wait() }()
	t.Cleanup(func() { syscall.Kill(-j.group, syscall.SIGKILL) })
	return j
}

// await waits for the end of the command.
func (j *job) await() error {
	select {
	case err := <-j.ended:
		return err
	case <-time.After(patience):
		j.Fatalf("%s: goes on; it has written\n%s", j.line, j)
		return nil
	}
}

// sees waits until the command has written something, and then ends it.
func (j *job) sees(pattern string) {
	j.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for give := time.Now().Add(patience); ; <-tick.C {
		over := time.Now().After(give) || len(j.ended) > 0 // and what it has written by then counts
		if regexp.MustCompile(pattern).MatchString(j.String()) {
			break
		}
		if over {
			j.Fatalf("%s: nothing of %q in\n%s", j.line, pattern, j)
		}
	}
	j.interrupt()
}

// interrupt is Ctrl-C, by which a command that goes on ends well.
func (j *job) interrupt() {
	j.Helper()
	syscall.Kill(-j.group, syscall.SIGINT)
	if err := j.await(); err != nil && strings.HasPrefix(j.line, "exec ") {
		j.Errorf("%s: after Ctrl-C %v\n%s", j.line, err, j)
	}
}

// endless are the commands that go on until Ctrl-C, with what they write when they work.
var endless = []struct{ command, writes string }{
	{`^petrel broker *(--bind|-c \S+ *(#|$)|#|$)`, `mqtt://127\.0\.0\.1:\d+`},
	{`^petrel bridge `, `forwarding`},
	{`^petrel sub .*-d\b`, `PUBLISH`},
	{`^petrel sub .*--exec`, `worked`},
	{`^petrel sub .*--json`, `"payload"`},
	{`^petrel sub .*(sensors|greetings)`, `1\n`},
}

// finite are those that end by themselves.
var finite = regexp.MustCompile(`^petrel (pub|request|probe|bench pubsub|outbox (list|drop)|broker (sessions|retained)|broker .*--check)\b`)

// enter types a line as a reader does. It returns false if the line is only to be parsed.
func (d *desk) enter(t *testing.T, line string) bool {
	t.Helper()
	for _, e := range endless {
		if regexp.MustCompile(e.command).MatchString(line) && !strings.Contains(line, "--check") {
			d.start(t, line).sees(e.writes)
			return true
		}
	}
	switch {
	case strings.HasPrefix(line, "petrel respond "): // the requests of the page are for it
		d.start(t, line)
	case strings.HasPrefix(line, "petrel request "):
		d.ask(t, line)
	case strings.Contains(line, "| petrel pub -t readings -l"):
		const listen = "petrel sub -t readings -q 1 -i listener --no-clean"
		d.start(t, listen+" -d").sees(`SUBACK`) // leaves a session, for which the server keeps what comes
		j := d.start(t, line)
		d.start(t, listen).sees(`21\.5\n`)
		j.interrupt()
	case finite.MatchString(line):
		if j := d.start(t, line); j.await() != nil {
			t.Errorf("%s: has failed:\n%s", line, j)
		}
	default:
		return false
	}
	return true
}

// ask sends a request until the responder has subscribed.
func (d *desk) ask(t *testing.T, line string) {
	t.Helper()
	line = strings.Replace(line, "petrel request ", "petrel request -W 5 ", 1)
	for give := time.Now().Add(patience); ; {
		j := d.start(t, line)
		err := j.await()
		if err == nil && j.String() == "HELLO\n" {
			return
		}
		if err == nil || time.Now().After(give) {
			t.Fatalf("%s: %v\n%s", line, err, j)
		}
	}
}

// The commands of petrel in the pages do what they are there for, in the order in which a reader meets them.
func TestDocumentedCommandsRun(t *testing.T) {
	typed := 0
	pages := make(map[string][]string)
	for _, l := range typedLines(t) {
		page, _, _ := strings.Cut(l.where, ":")
		pages[page] = append(pages[page], l.line)
	}
	for page, lines := range pages {
		t.Run(page, func(t *testing.T) {
			d := newDesk(t)
			for _, line := range lines {
				if d.enter(t, line) {
					typed++
				}
			}
		})
	}
	if typed < 30 {
		t.Errorf("%d commands: are they found?", typed)
	}
}
