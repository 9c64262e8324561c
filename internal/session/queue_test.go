package session

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
)

// queued is a message in the model of a queue.
type queued struct {
	ticket  uint64
	payload string
}

func TestQueueIsASlice(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	var q queue
	var model []queued
	gone := []uint64{12_345_678} // tickets of what is not in the queue
	for i := range 20_000 {
		switch rng.IntN(4) {
		case 0, 1:
			payload := strconv.Itoa(i)
			ticket := uint64(i + 1)
			q.push(ticket, &Message{Topic: "t", Payload: []byte(payload)})
			model = append(model, queued{ticket, payload})
		case 2:
			if len(model) == 0 {
				continue
			}
			if got := string(q.pop().Payload); got != model[0].payload {
				t.Fatalf("step %d: pop = %s, want %s", i, got, model[0].payload)
			}
			gone = append(gone, model[0].ticket)
			model = model[1:]
		case 3:
			if ticket := gone[rng.IntN(len(gone))]; q.remove(ticket) {
				t.Fatalf("step %d: ticket %d was gone and is removed", i, ticket)
			}
			if len(model) == 0 {
				continue
			}
			victim := rng.IntN(len(model))
			if !q.remove(model[victim].ticket) {
				t.Fatalf("step %d: ticket %d is not found", i, model[victim].ticket)
			}
			gone = append(gone, model[victim].ticket)
			model = slices.Delete(model, victim, victim+1)
		}
		checkQueue(t, &q, model)
	}
}

func checkQueue(t *testing.T, q *queue, model []queued) {
	t.Helper()
	bytes := 0
	for _, m := range model {
		bytes += len("t") + len(m.payload)
	}
	if q.length != len(model) || q.bytes != bytes {
		t.Fatalf("the queue has %d messages of %d bytes, want %d of %d", q.length, q.bytes, len(model), bytes)
	}
	front := q.front()
	if (front != nil) != (len(model) > 0) || front != nil && string(front.Payload) != model[0].payload {
		t.Fatalf("front is %v, want the first of %v", front, model)
	}
}

// Publishes that give up while the connection is away must not fill the memory, however long it is away.
func TestQueueForgetsTheWithdrawn(t *testing.T) {
	var q queue
	q.push(1, &Message{Topic: "first"})
	for ticket := range uint64(10_000) {
		q.push(ticket+2, &Message{Topic: "t", Payload: make([]byte, 10)})
		if !q.remove(ticket + 2) {
			t.Fatal("the latest message is not found")
		}
	}
	if n := q.entries.Len(); n > 100 {
		t.Errorf("one message waits in %d places", n)
	}
	if m := q.front(); m == nil || m.Topic != "first" {
		t.Errorf("front is %v", m)
	}
	if !q.remove(1) || q.front() != nil {
		t.Error("the first message cannot be withdrawn")
	}
}

func TestQueueForgetsPayloadsOfTheWithdrawn(t *testing.T) {
	var q queue
	q.push(1, &Message{Topic: "first"})
	q.push(2, &Message{Topic: "t", Payload: make([]byte, 10)})
	q.remove(2)
	for i := range q.entries.Len() {
		if e := q.entries.At(i); e.message.Payload != nil {
			t.Error("the payload of a withdrawn message is still referenced")
		}
	}
}
