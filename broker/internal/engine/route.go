package engine

import (
	"time"

	"github.com/petrel-mqtt/mqtt/codec"
)

// route gives a run to everybody whom it is for, and notes in its items what became of them. client is the publisher; nil:
// the server itself. Writers to be started are added to wakes.
func (e *Engine) route(client *Client, r *run, wakes *[]*conn) {
	if r.retain {
		e.routeRetained(client, r, wakes)
		return
	}
	e.deliver(r, r.items, wakes)
	e.tell(client, r)
}

// routeRetained stores each message before it is delivered, and looks up its subscribers in the same moment: a SUBSCRIBE
// gets it as a retained message, or as one that was just published, and never both or neither.
// [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT311-3.3.1-5] [MQTT311-3.3.1-7] [MQTT311-3.3.1-10]
// [MQTT311-3.3.1-11] [MQTT-3.3.1-8] [MQTT311-3.3.1-12]
func (e *Engine) routeRetained(client *Client, r *run, wakes *[]*conn) {
	stored := r.match.generation
	for i := range r.items {
		it := &r.items[i]
		if !it.skip() {
			m := it.message
			if m == nil {
				m = newMessage(r.match.topic, it.payload, it.properties, r.qos, true, e.now())
			}
			if r.qos > 0 {
				it.message = m
			}
			r.match = e.retain(client, m)
			if r.match.generation != stored {
				r.forgiveOthers(e, m)
			}
		}
		e.deliver(r, r.items[i:i+1], wakes)
		r.sheets = sheets{}
	}
	e.tell(client, r)
}

// tell tells the application what was published.
func (e *Engine) tell(client *Client, r *run) {
	if client == nil || !e.policy.Hears() {
		return
	}
	for i := range r.items {
		if it := &r.items[i]; !it.skip() {
			e.policy.Published(client, Message{r.match.topic, it.payload, r.qos, r.retain})
		}
	}
}

// publish publishes a message that no connection has sent: a will, or one of the server itself.
func (e *Engine) publish(publisher *Client, m *message) {
	r := &run{match: e.match(publisher, m.topic), qos: m.qos, retain: m.retain}
	r.items = []item{{payload: m.payload, properties: m.properties, message: m}}
	if m.qos == 0 {
		r.items[0].message = nil
	}
	var wakes []*conn
	e.route(publisher, r, &wakes)
	wakeAll(wakes)
}

// deliver gives items of a run to its targets and groups.
// [MQTT-4.8.2a]
func (e *Engine) deliver(r *run, items []item, wakes *[]*conn) {
	m := r.match
	nobody := len(m.targets) == 0 && len(m.groups) == 0
	n, bytes := 0, 0
	for i := range items {
		items[i].unheard = nobody
		if !items[i].skip() {
			n++
			bytes += len(items[i].payload)
		}
	}
	e.stats.published.Add(uint64(n))
	e.stats.publishedBytes.Add(uint64(bytes))
	if nobody || n == 0 {
		return
	}
	if r.qos > 0 {
		r.makeMessages(items, e.now())
	}
	nobody = len(m.groups) == 0
	stale := m.generation != e.index.generation.Load()
	for i := range m.targets {
		if t := &m.targets[i]; m.mayReceive(e, t, stale) {
			nobody = false
			t.session.take(r, items, t, wakes)
		} else {
			r.forgive(t.session, items)
		}
	}
	for _, g := range m.groups {
		g.take(r, items, wakes)
	}
	for i := range items { // who may not receive is not one whose queue is full
		items[i].unheard = nobody
	}
}

// skip reports whether an item is for nobody.
func (it *item) skip() bool { return it.repeated || it.refused != codec.Success }

// makeMessages makes messages that can be kept of items that lie in the read buffer.
func (r *run) makeMessages(items []item, now time.Duration) {
	for i := range items {
		if it := &items[i]; it.message == nil && !it.skip() {
			it.message = newMessage(r.match.topic, it.payload, it.properties, r.qos, r.retain, now)
		}
	}
}

// forget lets go of what the run holds.
func (r *run) forget() {
	clear(r.items)
	r.items, r.match, r.size, r.stored = r.items[:0], nil, 0, nil
	r.sheets = sheets{}
}
