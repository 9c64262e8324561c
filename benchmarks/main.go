// Benchmarks compares Petrel with other MQTT clients for Go, and all of them with a program that moves the same bytes and
// does nothing else. See README.md.
//
//	go run . -rounds 5        # everything; writes RESULTS.md and the figures
//	go run . -rows 'pub1|recv1' -libraries Petrel
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"strings"
)

func main() {
	log.SetFlags(0)
	var o options
	flag.IntVar(&o.rounds, "rounds", 5, "how often each library plays each row")
	flag.StringVar(&o.rows, "rows", "", "play only rows whose name matches this `expression`")
	flag.StringVar(&o.libraries, "libraries", "", "play only libraries whose name matches this `expression`")
	flag.Float64Var(&o.scale, "scale", 1, "multiply the number of messages")
	flag.StringVar(&o.out, "out", "", "write the table to this `file`, and the figures beside it")
	o.profiles.flags(flag.CommandLine)
	flag.StringVar(&o.mosquitto, "server", "", "`address` of a real server to play the rows against that publish, instead of the harness's own")
	serving := flag.String("serve", "", "be the server, for this transport (for the harness itself)")
	child := flag.String("play", "", "play one row (for the harness itself)")
	flag.Parse()

	var err error
	switch {
	case *serving != "":
		err = serve(os.Stdin, os.Stdout, *serving)
	case *child != "":
		err = playChild(*child)
	default:
		err = o.compare()
	}
	if err != nil {
		log.Fatal(err)
	}
}

// options are those of the comparison.
type options struct {
	rounds    int
	rows      string
	libraries string
	scale     float64
	out       string
	profiles  profiles
	mosquitto string
}

// order is what a child process is told to do.
type order struct {
	Row, Library, Address string
	N                     int
	Profiles              profiles
}

func playChild(text string) (err error) {
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	x := &run{address: o.Address, n: o.N}
	for _, r := range rows() {
		if r.name == o.Row {
			x.row = &r
		}
	}
	for i := range libraries {
		if libraries[i].name == o.Library {
			x.library = &libraries[i]
		}
	}
	if x.row == nil || x.library == nil {
		return fmt.Errorf("no row %q or library %q", o.Row, o.Library)
	}
	stop, err := o.Profiles.start()
	if err != nil {
		return err
	}
	defer func() {
		if stopped := stop(); err == nil {
			err = stopped
		}
	}()
	return play(os.Stdout, x)
}

// compare plays all rows by all libraries, interleaved, and reports.
func (o *options) compare() error {
	wanted, err := regexp.Compile(o.rows)
	if err != nil {
		return err
	}
	by, err := regexp.Compile(o.libraries)
	if err != nil {
		return err
	}
	var played []*table
	for _, r := range rows() {
		if !wanted.MatchString(r.name) {
			continue
		}
		t := &table{row: &r, results: make(map[string][]result)}
		played = append(played, t)
		for round := range o.rounds {
			for _, i := range rand.Perm(len(libraries)) {
				if l := &libraries[i]; by.MatchString(l.name) {
					if err := o.playOne(t, l); err != nil {
						return err
					}
				}
			}
			fmt.Fprintf(os.Stderr, "\r%-40s round %d of %d ", r.name, round+1, o.rounds)
		}
		fmt.Fprintln(os.Stderr)
		t.print(os.Stdout)
	}
	if o.out == "" {
		return nil
	}
	return report(o.out, played, o)
}

// playOne plays a row once, with a server and a client of its own.
func (o *options) playOne(t *table, l *library) error {
	address, stop, err := o.startServer(t.row)
	if err != nil {
		return err
	}
	defer stop()
	n := t.row.slow
	if strings.HasPrefix(l.name, "Petrel") || strings.HasPrefix(l.name, "bare") {
		n = t.row.n
	}
	text, err := json.Marshal(order{t.row.name, l.name, address, max(1, int(float64(n)*o.scale)), o.profiles})
	if err != nil {
		return err
	}
	out, err := self(t.row.pinned, "-play", string(text)).Output()
	if err != nil {
		return fmt.Errorf("%s by %s: %w", t.row.name, l.name, err)
	}
	var res result
	if err := json.Unmarshal(out, &res); err != nil {
		return fmt.Errorf("%s by %s: %w", t.row.name, l.name, err)
	}
	if res.Error != "" {
		fmt.Fprintf(os.Stderr, "\n%s by %s: %s\n", t.row.name, l.name, res.Error)
	}
	t.results[l.name] = append(t.results[l.name], res)
	return nil
}

// self is a process of this program, on the first core alone if pinned.
func self(pinned bool, args ...string) *exec.Cmd {
	program, err := os.Executable()
	if err != nil {
		log.Fatal(err)
	}
	cmd := exec.Command(program, args...)
	if pinned {
		cmd = exec.Command("taskset", append([]string{"-c", "0", program}, args...)...)
	}
	cmd.Stderr = os.Stderr
	return cmd
}

func (o *options) startServer(r *row) (address string, stop func(), err error) {
	if o.mosquitto != "" {
		return o.mosquitto, func() {}, nil
	}
	if r.real {
		return startMosquitto()
	}
	transport := r.transport
	if transport == "" {
		transport = "tcp"
	}
	cmd := self(r.pinned, "-serve", transport)
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		in.Close()
		_ = cmd.Wait()
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) || line == "" {
		stop()
		return "", nil, fmt.Errorf("the server does not start: %w", err)
	}
	return strings.TrimSpace(line), stop, nil
}
