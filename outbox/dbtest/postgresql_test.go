//go:build unix

package dbtest

import (
	"bytes"
	"database/sql"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"

	"github.com/petrel-mqtt/mqtt/outbox"
	"github.com/petrel-mqtt/mqtt/outbox/internal/storetest"
)

// cluster is the PostgreSQL of this run of the tests. It listens on a Unix socket only, and ends with this process.
type cluster struct {
	dir   string
	log   bytes.Buffer
	stdin io.Closer
	cmd   *exec.Cmd
}

// server is started by the first test that needs it.
var server *cluster

func TestMain(m *testing.M) {
	if child := os.Getenv(childVariable); child != "" {
		os.Exit(runChild(child))
	}
	code := m.Run()
	if server != nil {
		server.stop()
	}
	os.Exit(code)
}

// program returns the path of one of PostgreSQL's programs, which Debian does not put into PATH.
func program(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		missing(t, name)
	}
	return found[len(found)-1]
}

// missing ends a test that needs a program which is not installed.
func missing(t testing.TB, name string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed, and nothing is skipped where CI is set", name)
	}
	t.Skipf("%s is not installed", name)
}

// credential is whom PostgreSQL runs as: it refuses to be root.
func credential(t testing.TB) *syscall.SysProcAttr {
	t.Helper()
	if os.Getuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	t.Fatal("there is no user to run PostgreSQL as")
	return nil
}

// start makes a cluster and starts its server. The shell ends the server when this process is gone, however it ended.
func (c *cluster) start(t testing.TB) {
	t.Helper()
	as := credential(t)
	dir, err := os.MkdirTemp("/tmp", "outbox") // whatever TMPDIR says: a socket's path is short, and PostgreSQL's user gets there
	check(t, err)
	c.dir = dir
	if as != nil {
		check(t, os.Chown(dir, int(as.Credential.Uid), int(as.Credential.Gid)))
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(program(t, "initdb"), "-D", data, "-U", "outbox", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = dir, as
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	script := `"$@" & child=$!; read ended; kill -QUIT $child; wait $child`
	c.cmd = exec.Command("sh", "-c", script, "sh", program(t, "postgres"), "-D", data, "-k", dir, "-c", "listen_addresses=",
		"-c", "max_connections=200", "-c", "deadlock_timeout=100ms", "-c", "fsync=off", "-c", "shared_buffers=32MB")
	c.cmd.Dir, c.cmd.SysProcAttr, c.cmd.Stdout, c.cmd.Stderr = dir, as, &c.log, &c.log
	c.stdin, err = c.cmd.StdinPipe()
	check(t, err)
	check(t, c.cmd.Start())
	c.await(t)
}

func (c *cluster) await(t testing.TB) {
	t.Helper()
	db, err := sql.Open("pgx", c.dsn())
	check(t, err)
	defer db.Close()
	for give := time.Now().Add(patience); time.Now().Before(give); time.Sleep(50 * time.Millisecond) {
		if err = db.Ping(); err == nil {
			return
		}
	}
	c.stop()
	t.Fatalf("PostgreSQL does not start: %v\n%s", err, c.log.String())
}

func (c *cluster) stop() {
	c.stdin.Close()
	c.cmd.Wait()
	os.RemoveAll(c.dir)
}

func (c *cluster) dsn() string { return "host=" + c.dir + " user=outbox dbname=postgres" }

// startServer starts the server if it does not run yet, outside of any bubble.
func startServer(t testing.TB) {
	t.Helper()
	program(t, "postgres")
	if server == nil {
		c := new(cluster)
		c.start(t)
		server = c
	}
}

func openPostgreSQL(t testing.TB) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", server.dsn())
	check(t, err)
	t.Cleanup(func() { db.Close() })
	return db
}

var tables atomic.Int32

// newTable makes an outbox's table in a schema of its own.
func newTable(t testing.TB, db *sql.DB) outbox.Table {
	t.Helper()
	schema := fmt.Sprint("test", tables.Add(1))
	table := outbox.Table(schema + ".outbox")
	text, err := table.PostgreSQLMigration()
	check(t, err)
	_, err = db.Exec("CREATE SCHEMA " + schema + "; " + text)
	check(t, err)
	return table
}

func TestPostgreSQL(t *testing.T) {
	startServer(t)
	storetest.Run(t, func(t *testing.T) *storetest.Outbox {
		db := openPostgreSQL(t)
		table := newTable(t, db)
		return newOutbox(db, table, false, func() outbox.Store { return table.PostgreSQL(openPostgreSQL(t)) })
	})
}

// The migration as it is in the documentation works, once, with the functions that name no table.
func TestPostgreSQLDefaultTable(t *testing.T) {
	startServer(t)
	db := openPostgreSQL(t)
	_, err := db.Exec(outbox.PostgreSQLMigration())
	check(t, err)
	t.Cleanup(func() { db.Exec("DROP TABLE petrel_outbox; DROP FUNCTION petrel_outbox_place") })
	check(t, outbox.Publish(t.Context(), db, "t", []byte("1"), outbox.Key("k")))
	_, err = db.Exec(`INSERT INTO petrel_outbox (key, topic, payload) VALUES ('k', 't', '2')`) // as in another language
	check(t, err)
	b, err := outbox.PostgreSQL(db).Claim(t.Context(), outbox.Want{Keys: 1, PerKey: 9, Bytes: 99, Hold: time.Minute})
	check(t, err)
	m := b.Messages()
	if len(m) != 2 || string(m[0].Payload)+string(m[1].Payload) != "12" || m[1].ID == "" || m[1].Seq <= m[0].Seq {
		t.Errorf("%+v", m)
	}
	check(t, b.Finish(t.Context(), nil))
}
