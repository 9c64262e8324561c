package main

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

var clients atomic.Int64

// clientID is another one at each call: two clients may run at a time.
func clientID() string { return fmt.Sprint("bench-", clients.Add(1)) }

// client is a connection of one of the libraries. n is how many messages.
type client interface {
	// publish sends messages one after another the way the library recommends for many, with at most a window of them
	// without acknowledgement, and returns when all are acknowledged, or written at QoS 0.
	publish(n int, qos byte, payload []byte) error
	// one sends a message and waits for its acknowledgement.
	one(qos byte, payload []byte) error
	// receive subscribes to filter and returns when n messages have come.
	receive(n int, qos byte, filter string) error
	close()
}

// requester is a client that has request and response.
type requester interface {
	request(payload []byte) error
}

// subscriber is a client that can have many subscriptions.
type subscriber interface {
	subscribe(filters int) error
}

// topicName is what is published to.
const topicName = "bench/sensors/7/temperature"

// row is one line of the table: something that all libraries are asked to do.
type row struct {
	name      string
	title     string
	n         int  // messages, for the fastest
	slow      int  // messages for the others, whose runs would else take minutes: what is compared is the cost of one
	pinned    bool // client and server share one core
	transport string
	do        func(x *run) error

	qos     byte
	payload []byte
	workers int
	filters int // other subscriptions

	real     bool // against a Mosquitto
	connects bool // the row connects by itself
	idle     int  // clients that do nothing
	burst    int  // messages that each sends before
}

func rows() (all []row) {
	sizes := []struct {
		name  string
		bytes int
		n     int
	}{{"64B", 64, 2_000_000}, {"1KiB", 1 << 10, 500_000}, {"64KiB", 64 << 10, 20_000}}
	add := func(r row) {
		if r.slow == 0 {
			r.slow = max(r.n/20, 1000)
		}
		all = append(all, r)
	}
	for qos := range byte(3) {
		for _, s := range sizes {
			if s.bytes > 1<<10 && qos > 0 {
				continue
			}
			add(row{
				name: fmt.Sprintf("pub%d-%s", qos, s.name), title: fmt.Sprintf("publish QoS %d, %s", qos, s.name),
				do: publish, qos: qos, payload: make([]byte, s.bytes), n: s.n / (1 + int(qos)),
			})
		}
	}
	for qos := range byte(3) {
		for _, s := range sizes[:2] {
			add(row{
				name: fmt.Sprintf("recv%d-%s", qos, s.name), title: fmt.Sprintf("receive QoS %d, %s", qos, s.name),
				do: receive, qos: qos, payload: make([]byte, s.bytes), n: s.n / (1 + int(qos)),
			})
		}
	}
	for qos := byte(1); qos <= 2; qos++ {
		add(row{
			name: fmt.Sprintf("pub%d-64B-x64", qos), title: fmt.Sprintf("publish QoS %d, 64B, 64 goroutines that wait", qos),
			do: publishers, qos: qos, payload: make([]byte, 64), workers: 64, n: 500_000,
		})
	}
	add(row{name: "serial1", title: "publish QoS 1, 64B, one at a time, one core", do: serial, qos: 1, payload: make([]byte, 64), pinned: true, n: 20_000, slow: 20_000})
	add(row{name: "rpc1", title: "request and response, one at a time, one core", do: requests, payload: make([]byte, 64), workers: 1, pinned: true, n: 20_000})
	add(row{name: "rpc64", title: "request and response, 64 in flight", do: requests, payload: make([]byte, 64), workers: 64, n: 200_000})
	for _, filters := range []int{10, 1000, 100_000} {
		add(row{
			name: fmt.Sprintf("recv0-among-%d", filters), title: fmt.Sprintf("receive QoS 0, 64B, beside %d filters", filters),
			do: receiveAmong, payload: make([]byte, 64), filters: filters, n: 1_000_000,
		})
	}
	for qos := byte(1); qos <= 2; qos++ {
		add(row{
			name: fmt.Sprintf("mosquitto%d", qos), title: fmt.Sprintf("publish and receive QoS %d, 64B, through Mosquitto", qos),
			do: endToEnd, qos: qos, payload: make([]byte, 64), real: true, n: 200_000, slow: 50_000,
		})
	}
	add(row{name: "connect", title: "connect and disconnect", do: connects, n: 2000, slow: 2000, connects: true})
	for _, idle := range []int{1000, 10_000} {
		add(row{name: fmt.Sprintf("idle-%d", idle), title: fmt.Sprintf("%d idle clients", idle), idle: idle, n: idle, slow: idle})
	}
	add(row{name: "idle-1000-used", title: "1000 idle clients that have published 10 messages", idle: 1000, burst: 10, n: 1000, slow: 1000})
	first := len(all)
	for _, transport := range []string{"tls", "ws"} {
		for _, r := range slices.Clone(all[:first]) {
			if r.name == "pub1-64B" || r.name == "recv1-64B" || r.name == "pub0-1KiB" || r.name == "recv0-1KiB" {
				r.transport, r.name, r.title = transport, r.name+"-"+transport, r.title+", "+transport
				add(r)
			}
		}
	}
	return all
}

// run is one run of a row by a library, in a process of its own.
type run struct {
	*row
	library   *library
	address   string // of the server
	client    client // connected; nil for rows that connect themselves
	idlers    []client
	n         int
	mu        sync.Mutex
	latencies []time.Duration
	start     measured
}

func (x *run) took(d time.Duration) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.latencies = append(x.latencies, d)
}

func publish(x *run) error { return x.client.publish(x.n, x.qos, x.payload) }

func receive(x *run) error { return x.client.receive(x.n, x.qos, x.flood()) }

// flood is the filter that makes the server send.
func (x *run) flood() string { return fmt.Sprintf("flood/%d/%d/%d", x.qos, len(x.payload), x.n) }

func publishers(x *run) error {
	return inParallel(x.workers, x.n, func() error { return x.client.one(x.qos, x.payload) })
}

func serial(x *run) error {
	return inParallel(1, x.n, x.timed(func() error { return x.client.one(x.qos, x.payload) }))
}

func requests(x *run) error {
	q, ok := x.client.(requester)
	if !ok {
		return errNotOffered
	}
	return inParallel(x.workers, x.n, x.timed(func() error { return q.request(x.payload) }))
}

// timed notes how long f takes.
func (x *run) timed(f func() error) func() error {
	return func() error {
		start := time.Now()
		err := f()
		x.took(time.Since(start))
		return err
	}
}

// receiveAmong receives while there are many other subscriptions.
func receiveAmong(x *run) error {
	s, ok := x.client.(subscriber)
	if !ok {
		return errNotOffered
	}
	if err := s.subscribe(x.filters); err != nil {
		return err
	}
	x.begin()
	return receive(x)
}

// endToEnd publishes through a real server from one client to another one.
func endToEnd(x *run) error {
	if _, ok := x.client.(*bare); ok {
		return errNotOffered
	}
	publisher, err := x.library.dial(x.address, x.transport)
	if err != nil {
		return err
	}
	defer publisher.close()
	received := make(chan error, 1)
	go func() { received <- x.client.receive(x.n, x.qos, topicName) }()
	time.Sleep(200 * time.Millisecond) // no library says the same way that it has subscribed
	x.begin()
	if err := publisher.publish(x.n, x.qos, x.payload); err != nil {
		return err
	}
	return <-received
}

// connects connects and disconnects.
func connects(x *run) error {
	return inParallel(1, x.n, x.timed(func() error {
		c, err := x.library.dial(x.address, x.transport)
		if err == nil {
			c.close()
		}
		return err
	}))
}

// inParallel calls f n times in all, from so many goroutines.
func inParallel(workers, n int, f func() error) error {
	failed := make(chan error, workers)
	for i := range workers {
		share := n / workers
		if i < n%workers {
			share++
		}
		go func() {
			var err error
			for range share {
				if err = f(); err != nil {
					break
				}
			}
			failed <- err
		}()
	}
	var err error
	for range workers {
		if e := <-failed; e != nil {
			err = e
		}
	}
	return err
}
