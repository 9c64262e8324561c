package broker

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

var killCount = flag.Int("kills", 6, "how often TestKilled ends the broker")

// victim is a broker in a process of its own, which can be killed.
type victim struct {
	*exec.Cmd
	addr string
	in   io.WriteCloser // its standard input, whose end is an orderly one
	out  *bufio.Reader  // its standard output
}

// startVictim starts a broker that has a file, at an address that is free or that an earlier one had.
func startVictim(t *testing.T, file, addr string) *victim {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "PETREL_BENCH=1", "PETREL_BENCH_FILE="+file, "PETREL_BENCH_ADDR="+addr)
	out, err := cmd.StdoutPipe()
	check(t, err)
	in, err := cmd.StdinPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	v := &victim{Cmd: cmd, in: in, out: bufio.NewReader(out)}
	where, err := v.out.ReadString('\n')
	check(t, err)
	v.addr = strings.TrimSpace(where)
	return v
}

// end ends the process, without a warning or in an orderly way. It does not wait.
func (v *victim) end(orderly bool) {
	if orderly {
		v.in.Close()
	} else {
		v.Process.Kill()
	}
}

func (v *victim) join(t *testing.T, connect *codec.Connect) (*peer, *codec.Connack) {
	t.Helper()
	c, err := net.Dial("tcp", v.addr)
	check(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	p := &peer{t, c, codec.V5}
	p.send(connect)
	return p, receive[*codec.Connack](p)
}

// A broker that is killed, or stopped in an orderly way, again and again and at any moment, has lost nothing that it
// acknowledged, and keeps the order.
func TestKilled(t *testing.T) {
	t.Parallel()
	kills := *killCount
	file := t.TempDir() + "/petrel.db"
	v := startVictim(t, file, "")
	p, _ := v.join(t, sessionOf("away"))
	if ack := p.subscribe(1, 1, "a"); ack.Codes[0] != 1 {
		t.Fatal(ack.Codes)
	}
	acknowledged := 0
	for n := range kills {
		pub, _ := v.join(t, &codec.Connect{CleanStart: true})
		dying := v
		acknowledged = pub.flood(acknowledged, func() { // until the broker is no more
			time.AfterFunc(rand.N(200*time.Millisecond), func() { dying.end(n%2 == 1) })
		})
		v.Wait()
		v = startVictim(t, file, "")
	}
	connect := sessionOf("away")
	connect.CleanStart = false
	p, ack := v.join(t, connect)
	if !ack.SessionPresent {
		t.Fatal("the session is lost")
	}
	next := 0
	for next < acknowledged {
		m := receive[*codec.Publish](p)
		var i int
		fmt.Sscan(string(m.Payload), &i)
		if i > next {
			t.Fatalf("got %d, want %d", i, next)
		}
		next = max(next, i+1)
		p.send(&codec.Puback{PacketID: m.PacketID})
	}
	if acknowledged < kills {
		t.Errorf("only %d were acknowledged", acknowledged)
	}
	t.Logf("%d messages in %d lives", acknowledged, kills)
}

// flood publishes numbers from next on, 50 at a time, until the connection fails, and calls begun when the first one is
// acknowledged. It returns the first that was not acknowledged: the acknowledgements come in order.
func (p *peer) flood(next int, begun func()) int {
	first := next
	for {
		var batch []byte
		for i := range 50 {
			batch, _ = (&codec.Publish{Topic: "a", QoS: 1, PacketID: uint16(i + 1), Payload: fmt.Append(nil, next+i)}).Append(batch, codec.V5)
		}
		if _, err := p.conn.Write(batch); err != nil {
			return next
		}
		for range 50 {
			ack, err := codec.ReadPacket(p.conn, codec.V5, 0)
			if err != nil {
				return next
			}
			switch ack := ack.(type) {
			case *codec.Puback:
				if ack.Code != codec.Success {
					p.t.Fatalf("got %+v", ack)
				}
				if next++; next == first+1 {
					begun()
				}
			case *codec.Disconnect: // an orderly end
				return next
			default:
				p.t.Fatalf("got %T", ack)
			}
		}
	}
}
