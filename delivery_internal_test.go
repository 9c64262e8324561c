package mqtt

import "testing"

// A message at QoS 0 that went out of the queue counts as sent: a request must not be sent a second time because of it.
func TestLetGoOfAMessageAtQoS0(t *testing.T) {
	out := &outbox{core: new(core)}
	d := out.waiter()
	wake(d.resolve(nil, Success, nil)) // as sendOffline does after writeQoS0
	if resolved, sent := out.letGo(d); !resolved || !sent {
		t.Errorf("the message is resolved %v and sent %v", resolved, sent)
	}
}

// A Flush waits for its own wave and those before it, whatever the order in which they are over.
func TestWaves(t *testing.T) {
	isOver := func(w *wave) bool {
		select {
		case <-w.over:
			return true
		default:
			return false
		}
	}
	var w waves
	if all := w.end(); len(all) != 0 {
		t.Fatalf("%d waves before anything was published", len(all))
	}
	first, again := w.enter(), w.enter()
	one := w.end()
	second := w.enter()
	two := w.end()
	if first == 0 || first != again || second == first || len(one) != 1 || len(two) != 2 || two[0] != one[0] {
		t.Fatalf("numbers %d, %d, %d; the Flushes wait for %d and %d waves", first, again, second, len(one), len(two))
	}
	w.leave(0) // was not counted
	w.leave(first)
	w.leave(second)
	if isOver(two[0]) || !isOver(two[1]) {
		t.Errorf("one message of the first wave is left: it is over: %v, the second %v", isOver(two[0]), isOver(two[1]))
	}
	w.leave(again)
	if !isOver(one[0]) {
		t.Error("nothing of the first wave is left, and it is not over")
	}
	w.leave(w.enter())
	if all := w.end(); len(all) != 0 || w.open != 0 {
		t.Errorf("%d waves are left, and %d messages in the present one", len(all), w.open)
	}
}
