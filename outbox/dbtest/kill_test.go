//go:build unix

package dbtest

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/internal/freeport"
	"github.com/petrel-mqtt/mqtt/outbox"
)

var kills = flag.Int("kills", 12, "how often TestKill kills the application with each database")

// Applications are killed with SIGKILL at random moments, and the server is restarted. What mosquitto_sub has seen in the end is
// what the database has: each order that was committed, no order that was rolled back, and each customer's in the order
// of their commits. An order may be seen again.
func TestKill(t *testing.T) {
	startServer(t)
	t.Run("PostgreSQL", func(t *testing.T) {
		db := openPostgreSQL(t)
		_, err := db.Exec(`CREATE SCHEMA killed; SET search_path = killed; ` + outbox.PostgreSQLMigration() +
			`; CREATE TABLE orders (customer text, n int, name text, PRIMARY KEY (customer, n))`)
		check(t, err)
		t.Cleanup(func() { db.Exec("DROP SCHEMA killed CASCADE") })
		testKill(t, "postgresql", "postgres:///postgres?host="+server.dir+"&user=outbox&search_path=killed", 2)
	})
	t.Run("SQLite", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "db")
		db := openSQLite(t, file)
		_, err := db.Exec(outbox.SQLiteMigration() + `; CREATE TABLE orders (customer text, n int, name text, PRIMARY KEY (customer, n))`)
		check(t, err)
		testKill(t, "sqlite", "file:"+file+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(60000)&_txlock=immediate", 2)
	})
	t.Run("bbolt", func(t *testing.T) {
		testKill(t, "bbolt", filepath.Join(t.TempDir(), "db"), 1)
	})
}

func testKill(t *testing.T, kind, where string, together int) {
	m := startMosquitto(t)
	w := m.watch(t)
	var mu sync.Mutex
	accepted := map[string]bool{}
	note := func(name string) {
		mu.Lock()
		defer mu.Unlock()
		accepted[name] = true
	}
	stopRestarts := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() { m.restart(t, stopRestarts) })
	var applications sync.WaitGroup
	for range together {
		applications.Go(func() {
			for range *kills / together {
				p := startChild(t, note, kind, where, m.url(), "1000000")
				time.Sleep(time.Duration(50+rand.N(400)) * time.Millisecond)
				p.kill()
			}
		})
	}
	applications.Wait()
	close(stopRestarts)
	all.Wait()
	if t.Failed() {
		return
	}
	last := startChild(t, note, kind, where, m.url(), "10")
	if err := last.wait(); err != nil {
		t.Fatalf("the last application: %v", err)
	}
	a, err := openApplication(kind, where)
	check(t, err)
	defer a.close()
	orders, err := a.orders(t.Context())
	check(t, err)
	compare(t, orders, accepted, w.await(t, orders))
}

// compare holds what was seen against what the database has.
func compare(t *testing.T, orders map[string][]string, accepted map[string]bool, seen []string) {
	t.Helper()
	first := map[string][]string{}
	var once []string
	for _, name := range seen {
		if customer, _, _ := strings.Cut(name, ":"); !slices.Contains(first[customer], name) {
			first[customer] = append(first[customer], name)
			once = append(once, name)
		}
	}
	total := 0
	for customer, names := range orders {
		total += len(names)
		if !slices.Equal(first[customer], names) {
			t.Errorf("%s: %d orders, %d seen, or in another order", customer, len(names), len(first[customer]))
		}
		for _, name := range names {
			delete(accepted, name)
		}
	}
	if len(accepted) > 0 || len(once) != total {
		t.Errorf("%d orders in the database, %d seen; %d accepted ones are not in the database", total, len(once), len(accepted))
	}
	t.Logf("%d orders, %d of them seen again", total, len(seen)-len(once))
}

// process is an application that a test has started.
type process struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	read   sync.WaitGroup
}

// startChild starts an application and notes what it prints.
func startChild(t *testing.T, note func(string), arguments ...string) *process {
	self, err := os.Executable()
	check(t, err)
	p := &process{cmd: exec.Command(self)}
	p.cmd.Env = append(os.Environ(), childVariable+"="+strings.Join(arguments, " "))
	p.cmd.Stderr = &p.stderr
	out, err := p.cmd.StdoutPipe()
	check(t, err)
	check(t, p.cmd.Start())
	p.read.Go(func() {
		for r := bufio.NewReader(out); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return // half a line is no word of the application
			}
			note(strings.TrimSuffix(line, "\n"))
		}
	})
	return p
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	p.wait()
}

func (p *process) wait() error {
	p.read.Wait()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%w: %s", err, p.stderr.String())
	}
	return nil
}

// mosquitto is a server of one test. It keeps sessions, also when it is restarted.
type mosquitto struct {
	config string
	port   int
	mu     sync.Mutex // guards cmd
	cmd    *exec.Cmd
}

func startMosquitto(t *testing.T) *mosquitto {
	t.Helper()
	need(t, "mosquitto")
	m := &mosquitto{port: freeport.Take(t)}
	dir := t.TempDir()
	m.config = filepath.Join(dir, "mosquitto.conf")
	check(t, os.WriteFile(m.config, fmt.Appendf(nil, "listener %d 127.0.0.1\nallow_anonymous true\nuser root\nset_tcp_nodelay true\n"+
		"persistence true\npersistence_location %s/\nmax_queued_messages 0\n", m.port, dir), 0o600))
	m.start(t)
	t.Cleanup(m.stop)
	return m
}

// need returns the path of a program.
func need(t testing.TB, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin/", "/usr/local/sbin/"} {
		if path, err := exec.LookPath(dir + name); err == nil {
			return path
		}
	}
	missing(t, name)
	return ""
}

func (m *mosquitto) url() string { return fmt.Sprintf("mqtt://127.0.0.1:%d", m.port) }

func (m *mosquitto) start(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cmd = exec.Command(need(t, "mosquitto"), "-c", m.config)
	check(t, m.cmd.Start())
	for give := time.Now().Add(patience); time.Now().Before(give); time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", m.port)); err == nil {
			c.Close()
			return
		}
	}
	t.Fatal("mosquitto does not listen")
}

// stop lets the server store its sessions and end.
func (m *mosquitto) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cmd.Process.Signal(syscall.SIGTERM)
	m.cmd.Wait()
}

// restart restarts the server now and then.
func (m *mosquitto) restart(t *testing.T, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-time.After(time.Second):
			m.stop()
			m.start(t)
		}
	}
}

// witness is a mosquitto_sub that has subscribed to all orders with a session that the server keeps.
type witness struct {
	mu   sync.Mutex
	seen []string
}

func (m *mosquitto) watch(t *testing.T) *witness {
	t.Helper()
	arguments := []string{"-p", fmt.Sprint(m.port), "-V", "5", "-i", "witness", "-c", "-x", "3600", "-q", "1",
		"-t", "orders/#", "-F", "%p %P"}
	// The first one makes the session and ends when it has subscribed.
	if text, err := exec.Command(need(t, "mosquitto_sub"), append(arguments, "-E")...).CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_sub: %v\n%s", err, text)
	}
	cmd := exec.Command(need(t, "mosquitto_sub"), arguments...)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	w := new(witness)
	go w.read(out)
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return w
}

func (w *witness) read(out io.Reader) {
	for lines := bufio.NewScanner(out); lines.Scan(); {
		name, id, _ := strings.Cut(lines.Text(), " "+outbox.IDProperty+":")
		if id == "" {
			name = "without identifier: " + name // which no order has
		}
		w.mu.Lock()
		w.seen = append(w.seen, name)
		w.mu.Unlock()
	}
}

// await waits until every order was seen, and returns what was seen.
func (w *witness) await(t *testing.T, orders map[string][]string) []string {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	want := 0
	for _, names := range orders {
		want += len(names)
	}
	for {
		w.mu.Lock()
		seen := slices.Clone(w.seen)
		w.mu.Unlock()
		different := slices.Clone(seen)
		slices.Sort(different)
		if len(slices.Compact(different)) >= want || ctx.Err() != nil {
			return seen
		}
		time.Sleep(20 * time.Millisecond)
	}
}
