package mqtttest

import "time"

// alarm calls a function later, with the broker's lock, which guards the alarm too.
type alarm struct {
	timer *time.Timer // nil: not set
}

// set replaces what was set before. f is not called once stop or set have been.
func (a *alarm) set(b *Broker, d time.Duration, f func()) {
	a.stop()
	var timer *time.Timer
	timer = time.AfterFunc(d, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if a.timer == timer {
			a.timer = nil
			f()
		}
	})
	a.timer = timer
}

func (a *alarm) stop() {
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
}
