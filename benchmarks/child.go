package main

import (
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"slices"
	"time"
)

var errNotOffered = errors.New("not offered")

// library is one of those compared.
type library struct {
	name string
	dial func(address, transport string) (client, error)
}

var libraries = []library{
	{"bare TCP", dialBare},
	{"Petrel 5.0", dialPetrel5},
	{"Petrel 3.1.1", dialPetrel311},
	{"paho.golang paho", dialPahoGo},
	{"paho.golang autopaho", dialAutoPaho},
	{"paho.mqtt.golang", dialPahoMQTT},
	{"at-wat/mqtt-go", dialAtWat},
}

// result is what a run has measured.
type result struct {
	Messages   int
	Seconds    float64
	User, Sys  float64 // CPU seconds
	Mallocs    uint64
	Allocated  uint64                   // bytes
	Goroutines int                      // of an idle client
	Memory     uint64                   // heap and stack of an idle client, in bytes
	Latency    map[string]time.Duration `json:",omitempty"` // p50, p99, p99.9
	NotOffered bool                     `json:",omitempty"`
	Error      string                   `json:",omitempty"`
}

// measured is a state of the process.
type measured struct {
	at                 time.Time
	user, sys          float64
	mallocs, allocated uint64
}

func measure() (m measured) {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	m.mallocs, m.allocated = stats.Mallocs, stats.TotalAlloc
	m.user, m.sys = cpuSeconds()
	m.at = time.Now()
	return m
}

// begin starts the measuring, again.
func (x *run) begin() {
	runtime.GC()
	x.start = measure()
}

// play makes a run and writes what it measured.
func play(stdout io.Writer, x *run) error {
	res, err := x.measure()
	switch {
	case errors.Is(err, errNotOffered):
		res.NotOffered = true
	case err != nil:
		res.Error = err.Error()
	}
	return json.NewEncoder(stdout).Encode(res)
}

func (x *run) measure() (res result, err error) {
	if x.idle > 0 {
		return x.measureIdle()
	}
	if !x.connects {
		if x.client, err = x.library.dial(x.address, x.transport); err != nil {
			return res, err
		}
		defer x.client.close()
	}
	x.begin()
	if err := x.do(x); err != nil {
		return res, err
	}
	end := measure()
	start := x.start
	return result{
		Messages: x.n, Seconds: end.at.Sub(start.at).Seconds(),
		User: end.user - start.user, Sys: end.sys - start.sys,
		Mallocs: end.mallocs - start.mallocs, Allocated: end.allocated - start.allocated,
		Latency: percentiles(x.latencies),
	}, nil
}

func percentiles(all []time.Duration) map[string]time.Duration {
	if len(all) == 0 {
		return nil
	}
	slices.Sort(all)
	at := func(p float64) time.Duration { return all[min(int(p*float64(len(all))), len(all)-1)] }
	return map[string]time.Duration{"p50": at(0.50), "p99": at(0.99), "p99.9": at(0.999)}
}

// measureIdle connects clients, lets each send a little, and looks what they hold when nothing happens.
func (x *run) measureIdle() (res result, err error) {
	before, routines := held(), runtime.NumGoroutine()
	for range x.idle {
		c, err := x.library.dial(x.address, x.transport)
		if err != nil {
			return res, err
		}
		x.idlers = append(x.idlers, c)
		for range x.burst {
			if err := c.one(1, make([]byte, 64)); err != nil {
				return res, err
			}
		}
	}
	time.Sleep(2 * time.Second) // let buffers go back
	n := uint64(x.idle)
	res = result{
		Messages: x.idle, Memory: (held() - before) / n,
		Goroutines: (runtime.NumGoroutine() - routines) / x.idle,
	}
	return res, nil
}

// held is the memory in use after a collection: heap and stacks.
func held() uint64 {
	for range 4 {
		runtime.GC() // what pools hold goes with the second, and a stack shrinks by half with each
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
