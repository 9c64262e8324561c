package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xdg-go/scram"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/codec"
	"github.com/petrel-mqtt/mqtt/internal/freeport"
	"github.com/petrel-mqtt/mqtt/mqtttest"
)

func TestLedger(t *testing.T) {
	for _, c := range []struct {
		got                            []uint64
		distinct, duplicates, disorder int
	}{
		{nil, 0, 0, 0},
		{[]uint64{0, 1, 2}, 3, 0, 0},
		{[]uint64{0, 2, 1, 3}, 4, 0, 1},
		{[]uint64{0, 1, 1, 0, 2}, 3, 2, 0},
		{[]uint64{5, 200, 64, 63}, 4, 0, 2},
		{[]uint64{0, mostSequence}, 1, 0, 0},
	} {
		var l ledger
		for _, n := range c.got {
			payload := make([]byte, stampSize)
			stamp{run: 7, publisher: 1, sequence: n, sent: time.Second}.put(payload)
			s, ok := readStamp(payload, 7)
			if !ok || s.sequence != n || s.sent != time.Second {
				t.Fatalf("stamp %+v, %v", s, ok)
			}
			l.note(s)
		}
		if a, b, d := l.sum(); a != c.distinct || b != c.duplicates || d != c.disorder {
			t.Errorf("%v: %d distinct, %d duplicates, %d out of order", c.got, a, b, d)
		}
	}
	if _, ok := readStamp(make([]byte, stampSize), 7); ok {
		t.Error("another run's message was taken for one of this")
	}
}

// What cannot be reached at the first step comes with advice that fits.
func TestConnectAdvice(t *testing.T) {
	closed := fmt.Sprint("127.0.0.1:", freeport.Take(t))
	hangsUp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hangsUp.Close()
	go func() {
		for {
			c, err := hangsUp.Accept()
			if err != nil {
				return
			}
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	for line, want := range map[string]string{
		"--url mqtt://" + closed + " --proxy none":                "is a server running there?",
		"--url mqtt://example.invalid --proxy socks5://" + closed: "--proxy none does without",
		"--url mqtt://example.invalid --proxy http://" + closed:   "--proxy none does without",
		"--url mqtt://" + hangsUp.Addr().String():                 "does it speak MQTT on this port",
		"--url ws://" + hangsUp.Addr().String():                   "does it speak MQTT on this port",
		"--url mqtts://" + hangsUp.Addr().String():                "does it speak MQTT on this port",
	} {
		r := run(t.Context(), nil, "", append([]string{"pub", "-t", "a", "-m", "x"}, words(line)...)...)
		if r.code != exitConnection || !strings.Contains(r.errors, want) {
			t.Errorf("%s: %+v, want %q", line, r, want)
		}
	}
}

// A retained message whose topic name MQTT forbids keeps a subscriber from everything else, unless it is left out.
func TestSubInvalidTopic(t *testing.T) {
	for _, flag := range []string{"--drop-invalid-topics", "--reconnect=false"} {
		synctest.Test(t, func(t *testing.T) {
			server := mqtttest.NewServer(t, codec.V5)
			go func() {
				s := server.Accept()
				s.Receive()
				s.Send(&codec.Connack{})
				subscribe := s.Receive().(*codec.Subscribe)
				s.Send(&codec.Suback{PacketID: subscribe.PacketID, Codes: []codec.ReasonCode{codec.Success}})
				s.SendBytes(0x31, 6, 0, 2, 'a', 0xff, 0, 'x')
				s.Send(&codec.Publish{Topic: "a/b", Payload: []byte("good")})
				s.Receive() // DISCONNECT
				s.Close()
			}()
			r := run(context.WithValue(t.Context(), dialerKey{}, dialer(server.DialContext)), nil, "", "sub", "-t", "#", "-n", "1", flag)
			switch {
			case flag == "--reconnect=false":
				if r.code == 0 || !strings.Contains(r.errors, `a\xff`) {
					t.Errorf("without the flag: %+v", r)
				}
			case r.code != 0 || r.out != "good\n" || !strings.Contains(r.errors, "messages=1"):
				t.Errorf("with the flag: %+v", r)
			}
		})
	}
}

func TestDidYouMean(t *testing.T) {
	known := []string{"keep_alive", "default_qos", "url", "topics"}
	for wrong, want := range map[string]string{
		"keepalive": "keep_alive", "kepe_alive": "keep_alive", "qos": "default_qos", "ulr": "url", "topic": "topics",
		"xyzzy": "", "a": "", "retain": "",
	} {
		if got := didYouMean(wrong, known); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", wrong, got, want)
		}
	}
}

// Messages cannot play with a terminal, and what is no terminal gets them as they are.
func TestTerminalOutput(t *testing.T) {
	m := mqtt.Message{Topic: "a/\x1b]0;x", Payload: []byte("\x1b[2Jé\xff\tx\n\x7f\u009b")}
	for _, c := range []struct {
		o        outputFlags
		terminal bool
		want     string
	}{
		{outputFlags{}, false, "\x1b[2Jé\xff\tx\n\x7f\u009b\n"},
		{outputFlags{}, true, "\\x1b[2Jé\\xff\tx\n\\x7f\\xc2\\x9b\n"},
		{outputFlags{verbose: true}, true, "\x1b[36ma/\\x1b]0;x\x1b[0m \\x1b[2Jé\\xff\tx\n\\x7f\\xc2\\x9b\n"},
		{outputFlags{format: `\e[1m%t`, noNewline: true}, true, "\x1b[1ma/\\x1b]0;x"},
	} {
		f, err := c.o.formatter(c.terminal)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(f(nil, m, time.Time{})); got != c.want {
			t.Errorf("%+v, terminal %v: %q, want %q", c.o, c.terminal, got, c.want)
		}
	}
}

// gone is a reader of our output that has left.
type gone struct{}

func (gone) Write([]byte) (int, error) {
	return 0, &os.PathError{Op: "write", Path: "|1", Err: syscall.EPIPE}
}

// What commands write at their end may find no reader, too.
func TestBrokenPipeAtTheEnd(t *testing.T) {
	for _, line := range []string{"probe", "bench pub --url mqtt://test --count 1 --json", "request -t svc/echo -m x"} {
		synctest.Test(t, func(t *testing.T) {
			b := mqtttest.NewBroker(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go echo(ctx, b)
			synctest.Wait()
			root := newRoot()
			var errors strings.Builder
			root.SetOut(gone{})
			root.SetErr(&errors)
			code := execute(context.WithValue(t.Context(), dialerKey{}, dialer(b.DialContext)), root, words(line))
			if code != exitOK || errors.String() != "" {
				t.Errorf("%s: exit code %d, %s", line, code, errors.String())
			}
			cancel()
			synctest.Wait()
		})
	}
}

// Who reads the output may leave: the command ends well, and what could not be written stays with the session.
func TestBrokenPipe(t *testing.T) {
	for _, exec := range [][]string{nil, {"--exec", "echo done"}} {
		synctest.Test(t, func(t *testing.T) {
			b := mqtttest.NewBroker(t)
			flags := append([]string{"sub", "-t", "a", "-q", "1", "-i", "me", "--no-clean", "-W", "10"}, exec...)
			run(t.Context(), b, "", append(flags, "-E")...)
			b.Publish(text("a", "precious"))
			b.Restarted("me")
			root := newRoot()
			root.SetOut(gone{})
			root.SetErr(io.Discard)
			if code := execute(context.WithValue(t.Context(), dialerKey{}, dialer(b.DialContext)), root, flags); code != exitOK {
				t.Errorf("exit code %d", code)
			}
			b.Restarted("me")
			if r := run(t.Context(), b, "", append(flags[:10:10], "-n", "1")...); r.out != "precious\n" {
				t.Errorf("%q, then %+v", exec, r)
			}
		})
	}
}

func TestVersionAndCompletion(t *testing.T) {
	for line, want := range map[string]string{
		"--version": "petrel ", "pub --version": "petrel ", "sub --version": "petrel ", "completion bash": "bash completion",
		"__complete pub --encoding ~": "base64", "__complete p": "probe",
	} {
		args := words(line)
		if args[len(args)-1] == " " {
			args[len(args)-1] = ""
		}
		if r := run(t.Context(), nil, "", args...); r.code != exitOK || !strings.Contains(r.out, want) {
			t.Errorf("%s: %+v", line, r)
		}
	}
}

// Without a server, benchmarks run against a broker of their own.
func TestBenchEmbedded(t *testing.T) {
	for line, want := range map[string]string{
		"bench conn --clients 10":                                "connected  10",
		"bench pub --count 100 -q 2":                             "sent  100",
		"bench pubsub --count 100 -q 1 --subscribers 2 -V 3.1.1": "received  200",
		"bench rpc --count 100":                                  "answered  100",
	} {
		r := run(t.Context(), nil, "", words(line)...)
		if r.code != exitOK || r.errors != "" || !strings.Contains(r.out, want) || !strings.Contains(r.out, "against an embedded broker") {
			t.Errorf("%s: %+v", line, r)
		}
	}
}

// A plot is one file that loads nothing.
func TestPlot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plot.html")
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		r := run(t.Context(), b, "", "bench", "pubsub", "--url", "mqtt://test", "--rate", "13", "--duration", "4", "--plot", path)
		if r.code != exitOK {
			t.Errorf("%+v", r)
		}
	})
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<title>petrel bench pubsub</title>", "sent at 2 s: 13", "p99 at 2 s"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the plot does not contain %q", want)
		}
	}
	for _, no := range []string{"http", "src=", "@import", "<script"} {
		if strings.Contains(string(page), no) {
			t.Errorf("the plot contains %q", no)
		}
	}
}

// --out-dir writes each message into a file that cannot be anywhere else, and goes on counting.
func TestOutDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	defer func() { link = os.Link }()
	for range 2 {
		synctest.Test(t, func(t *testing.T) {
			b := mqtttest.NewBroker(t)
			retained(text("../../etc/x", "evil"), text("a/b c", "\x00"), text("x/"+strings.Repeat("é", 200), "long"))(nil, b)
			if r := run(t.Context(), b, "", "sub", "-t", "#", "-n", "3", "-q", "1", "--out-dir", dir); r.code != exitOK || r.out != "" {
				t.Errorf("%+v", r)
			}
		})
		link = func(string, string) error { return errors.ErrUnsupported } // as on a FAT file system
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), "-")
		names = append(names, name)
		if !slices.ContainsFunc([]string{"..%2F..%2Fetc%2Fx", "a%2Fb%20c", "x%2F%C3%A9"}, func(s string) bool { return strings.Contains(e.Name(), s) }) {
			t.Errorf("file %s", e.Name())
		}
	}
	if content, err := os.ReadFile(filepath.Join(dir, entries[5].Name())); err != nil || !slices.Contains([]string{"evil", "\x00", "long"}, string(content)) {
		t.Errorf("%q, %v", content, err)
	}
	if want := []string{"000001", "000002", "000003", "000004", "000005", "000006"}; !slices.Equal(names, want) {
		t.Errorf("files %v", names)
	}
}

// A command fails: by default its message stays with the session, which gets it again; those before it do not come again.
func TestExecFailure(t *testing.T) {
	for _, c := range []struct {
		name, flags string
		out, errors string // of the first run
		left        string // for the second
	}{
		{"stop", "", "good\nbad\n", "petrel sub: jobs: the command failed: exit status 1; the server sends the message again to the next with this -i\n", "bad\nlast\n"},
		{"stop, 3.1.1", "-V 3.1.1", "good\nbad\n", "petrel sub: jobs: the command failed: exit status 1; the server sends the message again to the next with this -i\n", "bad\nlast\n"},
		{"reject", "--on-failure reject", "good\nbad\nlast\n", "petrel sub: 1 of 3 commands failed\n", ""},
		{"reject, 3.1.1", "--on-failure reject -V 3.1.1", "good\nbad\nlast\n", "petrel sub: 1 of 3 commands failed\n", ""},
		{"ignore", "--on-failure ignore", "good\nbad\nlast\n", "petrel sub: 1 of 3 commands failed\n", ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := mqtttest.NewBroker(t)
			flags := append(words("sub -t jobs -q 1 -i worker --no-clean --quiet"), words(c.flags)...)
			exec := func(command string, more ...string) []string {
				return slices.Concat(flags, []string{"--exec", command}, more)
			}
			run(t.Context(), b, "", exec("true", "-E")...)
			var refused []codec.ReasonCode
			b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
				if a, ok := p.(*codec.Puback); ok && !outbound && a.Code != codec.Success {
					refused = append(refused, a.Code)
				}
				return true
			})
			for _, job := range []string{"good", "bad", "last"} {
				b.Publish(text("jobs", job))
			}
			r := run(t.Context(), b, "", exec(`read j; echo $j; [ $j != bad ]`, "-n", "3")...)
			if r.code != exitAnswer || r.out != c.out || r.errors != c.errors {
				t.Errorf("%s: %+v", c.name, r)
			}
			if (len(refused) > 0) != (c.name == "reject") {
				t.Errorf("%s: PUBACKs that refuse: %v", c.name, refused)
			}
			b.Restarted("worker")
			if r = run(t.Context(), b, "", exec(`cat; echo`, "-W", "10")...); r.code != exitOK || r.out != c.left {
				t.Errorf("%s, the next: %+v", c.name, r)
			}
		})
	}
	// Without a session that is kept, the message is gone, and the error says so.
	for flags, want := range map[string]string{"-q 0": "at QoS 0", "-q 1": "-i and --no-clean keep it"} {
		synctest.Test(t, func(t *testing.T) {
			b := mqtttest.NewBroker(t)
			retained(text("jobs", "bad"))(nil, b)
			r := run(t.Context(), b, "", append(words("sub -t jobs --exec false"), words(flags)...)...)
			if r.code != exitAnswer || !strings.Contains(r.errors, want) {
				t.Errorf("%s: %+v", flags, r)
			}
		})
	}
}

// Workers work at the same time, up to their number; a command that hangs is killed.
func TestExecWorkers(t *testing.T) {
	b := mqtttest.NewBroker(t)
	url := b.Listen()
	for i := range 4 {
		retained(text("jobs/"+string(rune('a'+i)), "x"))(nil, b)
	}
	dir := t.TempDir()
	// Each waits until two have begun.
	command := "cd " + dir + "; touch $$; while [ $(ls | wc -l) -lt 2 ]; do sleep 0.01; done"
	if r := run(t.Context(), nil, "", "sub", "--url", url, "-t", "jobs/+", "-n", "4", "--workers", "2", "--exec", command); r.code != exitOK {
		t.Errorf("%+v", r)
	}
	r := run(t.Context(), nil, "", "sub", "--url", url, "-t", "jobs/a", "-n", "1", "--exec", "exec sleep 60", "--exec-timeout", "0.05")
	if r.code != exitAnswer || !strings.Contains(r.errors, "killed after 50ms") {
		t.Errorf("%+v", r)
	}
}

// What -n leaves over stays with the server's session.
func TestCountLeavesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		flags := []string{"sub", "-t", "a", "-q", "1", "-i", "me", "--no-clean", "-W", "10"}
		run(t.Context(), b, "", append(flags, "-E")...)
		for _, p := range []string{"1", "2", "3"} {
			b.Publish(text("a", p))
		}
		for _, want := range []string{"1\n", "2\n", "3\n"} {
			b.Restarted("me")
			if r := run(t.Context(), b, "", append(flags, "-n", "1")...); r.out != want || r.code != exitOK {
				t.Errorf("%+v, want %q", r, want)
			}
		}
		if r := run(t.Context(), b, "", append(flags[:len(flags)-2], "-U", "a", "-E")...); r.code != exitOK {
			t.Errorf("%+v", r)
		}
	})
}

// Ctrl-C ends with a DISCONNECT, so the will stays where it is.
func TestInterrupt(t *testing.T) {
	for _, line := range []string{"sub -t a", "pub -t a -l", "respond -t a --echo", "pub -t a -m x --repeat 0 --interval 1", "bench pubsub --rate 10 --url mqtt://test"} {
		synctest.Test(t, func(t *testing.T) {
			b := mqtttest.NewBroker(t)
			var mu sync.Mutex
			connects, disconnects := 0, 0
			b.Intercept(func(_ string, outbound bool, p codec.Packet) bool {
				mu.Lock()
				defer mu.Unlock()
				switch p.(type) {
				case *codec.Connect:
					connects++
				case *codec.Disconnect:
					disconnects++
				}
				return true
			})
			ctx, interrupt := context.WithCancel(context.WithValue(t.Context(), dialerKey{}, dialer(b.DialContext)))
			time.AfterFunc(2500*time.Millisecond, interrupt)
			stdin, end := io.Pipe()
			root := newRoot()
			root.SetIn(stdin)
			root.SetOut(io.Discard)
			root.SetErr(io.Discard)
			code := execute(ctx, root, append(words(line), "--will-topic", "gone"))
			end.Close() // the read of standard input, which nothing else ends
			synctest.Wait()
			if connects == 0 || disconnects != connects || len(b.Received("gone")) != 0 {
				t.Errorf("%s: %d CONNECTs, %d DISCONNECTs, wills %v", line, connects, disconnects, b.Received("gone"))
			}
			if endless := !strings.Contains(line, "-l") && !strings.Contains(line, "bench"); endless != (code == exitOK) {
				t.Errorf("%s: exit code %d", line, code)
			}
		})
	}
}

// SCRAM against a server that knows it: with the right password, and with a wrong one.
func TestScram(t *testing.T) {
	for password, want := range map[string]int{"secret": exitOK, "guess": exitConnection} {
		for method, hash := range map[string]scram.HashGeneratorFcn{"scram-sha-256": scram.SHA256, "scram-sha-512": scram.SHA512} {
			synctest.Test(t, func(t *testing.T) {
				b := mqtttest.NewBroker(t, mqtttest.Authentication(strings.ToUpper(method), scramServer(t, hash)))
				r := run(t.Context(), b, "", "pub", "-t", "a", "-m", "x", "-q", "1", "--auth", method, "-u", "me", "-P", password)
				if r.code != want || strings.Contains(r.errors, password) {
					t.Errorf("%s, password %s: %+v", method, password, r)
				}
			})
		}
	}
}

// scramServer is the server's side for one client, whose password is secret.
func scramServer(t *testing.T, hash scram.HashGeneratorFcn) mqtttest.AuthStep {
	user, err := hash.NewClient("me", "secret", "")
	if err != nil {
		t.Fatal(err)
	}
	server, err := hash.NewServer(func(string) (scram.StoredCredentials, error) {
		return user.GetStoredCredentialsWithError(scram.KeyFactors{Salt: "salt", Iters: 4096})
	})
	if err != nil {
		t.Fatal(err)
	}
	conversation := server.NewConversation()
	return func(_ string, data []byte) ([]byte, codec.ReasonCode) {
		answer, err := conversation.Step(string(data))
		switch {
		case err != nil:
			return nil, codec.NotAuthorized
		case conversation.Done():
			return []byte(answer), codec.Success
		}
		return []byte(answer), codec.ContinueAuthentication
	}
}

// What a benchmark that is interrupted has not heard of has not failed.
func TestBenchInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mqtttest.NewBroker(t)
		b.Fault(mqtttest.Fault{Packet: "PUBACK", Outbound: true, Skip: 10, Hold: true})
		ctx, interrupt := context.WithCancel(t.Context())
		time.AfterFunc(2450*time.Millisecond, interrupt)
		r := run(ctx, b, "", words("bench pub --url mqtt://test --rate 10 -q 1")...)
		if r.code != exitInterrupted || r.errors != "" || !strings.Contains(r.out, "sent  25") || strings.Contains(r.out, "failed") {
			t.Errorf("%+v", r)
		}
	})
}

// SCRAM sends neither user name nor password, not even those of the URL.
func TestAuth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.run(t.Context(), "", "mqtt", "pub", "-t", "a", "-m", "x", "--auth", "scram-sha-256", "--url", "mqtt://me:secret@test")
		if r.code != exitConnection || !strings.Contains(r.errors, "leave out --auth") {
			t.Errorf("%+v", r) // the broker knows no method
		}
		c := w.connect
		if c.HasUsername || c.HasPassword || c.Properties.AuthenticationMethod != "SCRAM-SHA-256" || strings.Contains(string(c.Properties.AuthenticationData), "secret") {
			t.Errorf("CONNECT %+v", c)
		}
	})
}
