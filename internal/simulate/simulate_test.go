package simulate_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/petrel-mqtt/mqtt/mqtttest"
)

// The simulator plays random exchanges of clients with the broker in memory, in virtual time, while everything breaks that
// can break, and then checks the promises of the client.
//
// Publishers, consumers and those who subscribe and unsubscribe run at the same time (clients_test.go, listeners_test.go). The
// weather breaks things (weather_test.go). A witness at the broker notes every packet (witness_test.go). From what the witness
// has seen follows what each subscription must have received (check_test.go).
//
// A seed decides everything that is random here, separately for each of them. The order in which goroutines run at the same
// virtual moment is decided by the scheduler, so a seed that fails may have to be played several times.

var (
	simulateFirst   = flag.Uint64("seed", 1, "the first seed that TestSimulate plays")
	simulateSeeds   = flag.Uint64("seeds", 0, "how many seeds TestSimulate plays; 0: as many as a test run has time for")
	simulateWorkers = flag.Int("workers", 1, "how many seeds TestSimulate plays at a time")
)

func TestSimulate(t *testing.T) {
	seeds := *simulateSeeds
	switch {
	case seeds > 0:
	case testing.Short() || raceEnabled:
		seeds = 50
	default:
		seeds = 250
	}
	var next atomic.Uint64
	var failed atomic.Bool
	var workers sync.WaitGroup
	for range *simulateWorkers {
		workers.Go(func() {
			for n := next.Add(1); n <= seeds && !failed.Load(); n = next.Add(1) {
				if seed := *simulateFirst + n - 1; !simulate(t, seed) {
					failed.Store(true)
					t.Errorf("to replay: go test ./internal/simulate -seed %d -seeds 1 -count 20", seed)
				}
			}
		})
	}
	workers.Wait()
}

func simulate(t *testing.T, seed uint64) (ok bool) {
	return t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { newSimulation(t, seed).run() })
	})
}

// simulation is one seed's.
type simulation struct {
	t       testing.TB
	seed    uint64
	began   time.Time
	network *network
	witness *witness
	weather *weather
	clients []*simulated
	// responder answers requests; nil: nobody does.
	responder *simulated

	messages    []*published // all, in the end
	identifiers bool         // servers know subscription identifiers
	merging     bool         // they send a message that matches several filters of a client once
	largest     uint32       // packet that they take, in bytes; 0: any

	work      sync.WaitGroup // those who publish, subscribe and break things
	consumers sync.WaitGroup
	calm      chan struct{} // closed when nothing breaks any more

	mu       sync.Mutex
	log      []string // what was done, for the report
	problems int
}

// actor tells the sources of randomness apart.
type actor uint64

const (
	forBroker actor = iota
	forWeather
	forClient
	forPublisher
	forSubscriber
	forListener
	forConnection
	forBackoff
	forLife
	forRequests
	forNetwork
	forHandlers
	forStore
	forLost
)

// random returns the source of randomness of one actor.
func (s *simulation) random(who actor, numbers ...int) *rand.Rand {
	stream := uint64(who)
	for _, n := range numbers {
		stream = stream<<12 + uint64(n) + 1
	}
	return rand.New(rand.NewPCG(s.seed, stream))
}

// oneIn is true in one of n cases.
func oneIn(r *rand.Rand, n int) bool { return r.IntN(n) == 0 }

// below returns a duration below d, small ones more often.
func below(r *rand.Rand, d time.Duration) time.Duration {
	f := r.Float64()
	return time.Duration(f * f * float64(d))
}

func newSimulation(t testing.TB, seed uint64) *simulation {
	s := &simulation{t: t, seed: seed, began: time.Now(), calm: make(chan struct{})}
	s.witness = newWitness(s)
	s.network = newNetwork(s)
	s.weather = newWeather(s)
	return s
}

func (s *simulation) brokerOptions(r *rand.Rand) (opts []mqtttest.Option) {
	chosen := func(opt mqtttest.Option) bool {
		if !oneIn(r, 3) {
			return false
		}
		opts = append(opts, opt)
		return true
	}
	chosen(mqtttest.ReceiveMaximum(uint16(1 + r.IntN(20))))
	chosen(mqtttest.Fragment(1 + r.IntN(50)))
	chosen(mqtttest.ServerKeepAlive(time.Duration(5+r.IntN(50)) * time.Second))
	chosen(mqtttest.TopicAliasMaximum(uint16(r.IntN(4))))
	chosen(mqtttest.UseTopicAliases())
	opts = append(opts, mqtttest.Authentication("riddle", riddle{}.step))
	s.identifiers = !chosen(mqtttest.NoSubscriptionIdentifiers())
	s.merging = chosen(mqtttest.MergeOverlapping())
	if largest := uint32(200 + r.IntN(200)); chosen(mqtttest.MaximumPacketSize(largest)) {
		s.largest = largest
	}
	return opts
}

// longest is how long a simulation may last. Where a client waits for ever, time goes on for ever, with every ping.
const longest = 24 * time.Hour

func (s *simulation) run() {
	defer time.AfterFunc(longest, s.giveUp).Stop()
	for i := range 2 + s.random(forClient).IntN(3) {
		s.clients = append(s.clients, s.addClient(i))
	}
	for _, c := range s.clients {
		c.begin()
	}
	s.weather.begin()
	s.work.Wait()
	s.settle()
	s.end()
	s.check()
	if s.t.Failed() {
		s.t.Log(s.description())
		s.t.Logf("what happened:\n%s", strings.Join(s.log, "\n"))
	}
}

// giveUp ends the test run: a simulation that does not end cannot be left.
func (s *simulation) giveUp() {
	s.mu.Lock()
	log := strings.Join(s.log, "\n")
	s.mu.Unlock()
	panic(fmt.Sprintf("seed %d does not end\nwhat happened:\n%s\nclients' goroutines:\n%s", s.seed, log, leftGoroutines()))
}

// settle lets everything come to its end, now that nothing breaks any more.
func (s *simulation) settle() {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Hour)
	defer cancel()
	for _, m := range s.witness.messages() {
		if m.delivery != nil {
			m.settle(m.delivery.Wait(ctx))
		}
	}
	time.Sleep(4 * time.Minute) // what is on the way to subscriptions arrives, and a half-open connection is noticed
	s.checkRequests()
	time.Sleep(time.Minute)
	for _, c := range s.clients {
		c.checkQuiet()
	}
}

// end ends the clients, each in its way.
func (s *simulation) end() {
	for _, c := range s.clients {
		c.end(s.random(forLife, c.number, 0))
	}
	s.consumers.Wait()
	synctest.Wait()
	if left := leftGoroutines(); left != "" {
		s.problem("goroutines of a client are left:\n%s", left)
	}
}

// leftGoroutines returns the stacks of those goroutines of this bubble that belong to a client.
func leftGoroutines() string {
	buffer := make([]byte, 1<<20)
	all := strings.Split(string(buffer[:runtime.Stack(buffer, true)]), "\n\n")
	_, bubble, _ := strings.Cut(all[0][:strings.Index(all[0], "\n")], "synctest bubble") // of this goroutine, which comes first
	var left []string
	for _, stack := range all[1:] {
		first, rest, _ := strings.Cut(stack, "\n")
		ours := strings.Contains(rest, "petrel-mqtt/mqtt.(*") || strings.Contains(rest, "mqtt/internal/link.")
		if ours && strings.HasSuffix(first, "synctest bubble"+bubble) {
			left = append(left, stack)
		}
	}
	return strings.Join(left, "\n\n")
}

// note keeps what was done for the report.
func (s *simulation) note(who, format string, args ...any) {
	line := fmt.Sprintf("%10s %s: ", time.Since(s.began).Round(time.Microsecond), who) + fmt.Sprintf(format, args...)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log = append(s.log, line)
}

// problem is a promise that was broken. The first ones say enough.
func (s *simulation) problem(format string, args ...any) {
	s.t.Helper()
	s.note("PROBLEM", format, args...)
	s.mu.Lock()
	s.problems++
	tooMany := s.problems > 20
	s.mu.Unlock()
	if tooMany {
		s.t.Fail()
		return
	}
	s.t.Errorf(format, args...)
}

func (s *simulation) isCalm() bool {
	select {
	case <-s.calm:
		return true
	default:
		return false
	}
}

// pause sleeps, and reports false as soon as it is calm.
func (s *simulation) pause(d time.Duration) bool {
	if d == 0 {
		return !s.isCalm()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-s.calm:
		return false
	}
}

// lasting returns a context that ends after d, and notes it if the call that it is for does not return by then, or slack
// later.
func (s *simulation) lasting(d, slack time.Duration, what string, f func(context.Context) error) error {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), d)
	defer cancel()
	began := time.Now()
	err := f(ctx)
	if took := time.Since(began); took > d+slack {
		s.problem("%s returns after %v although its ctx ends after %v: %v", what, took, d, err)
	}
	return err
}

func (s *simulation) description() string {
	return fmt.Sprintf("%d hosts of %d servers, identifiers %v merging %v largest %d",
		len(s.network.hosts), len(s.network.servers), s.identifiers, s.merging, s.largest)
}

// instance returns the client that uses a client identifier now, or nil.
func (s *simulation) instance(clientID string) *instance {
	for _, c := range s.clients {
		if now := c.current(); c.id == clientID && now != nil && now.Err() == nil {
			return now
		}
	}
	return nil
}
