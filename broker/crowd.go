package broker

import "time"

// maxStrangers is how many connections of a listener may be without CONNECT at a time. Each costs a goroutine, and memory for
// a CONNECT of at most 128 KiB. More are not accepted: they wait where the operating system keeps them.
const maxStrangers = 1000

// crowd bounds those who connect.
type crowd struct {
	strangers chan struct{} // has an element for each connection without CONNECT

	// Owned by who accepts.
	interval time.Duration // in which one more may come, on average; 0: there is no such limit
	ready    time.Time     // when as many have come as the interval allows, a second's worth at a time
}

func newCrowd(strangers, perSecond int) *crowd {
	c := &crowd{strangers: make(chan struct{}, strangers)}
	if perSecond > 0 {
		c.interval = time.Second / time.Duration(perSecond)
	}
	return c
}

// await waits until one more may be accepted, and counts it. It returns false when stop is closed before.
func (c *crowd) await(stop <-chan struct{}) bool {
	select {
	case c.strangers <- struct{}{}:
	case <-stop:
		return false
	}
	early := time.Until(c.ready.Add(c.interval))
	if c.interval == 0 || early <= time.Second {
		return true
	}
	select {
	case <-time.After(early - time.Second):
		return true
	case <-stop:
		c.leave()
		return false
	}
}

// accepted counts a connection towards the rate.
func (c *crowd) accepted() {
	if now := time.Now(); c.ready.Before(now) {
		c.ready = now
	}
	c.ready = c.ready.Add(c.interval)
}

// leave is for a connection that is no stranger any more: CONNECT has come, or its end.
func (c *crowd) leave() { <-c.strangers }
