package session

// aliases hands out topic aliases on one connection (section 3.3.2.3.4): a topic that is published to again is sent as
// the number that stands for it. When all numbers are taken, the topic that was used least recently gives up its own.
// Messages do not store an alias: it is looked up when their packet is encoded.
type aliases struct {
	maximum int            // how many the peer takes [MQTT-3.2.2-17]
	numbers map[string]int // by topic
	uses    []use          // by number, from 1; the place 0 closes the circle of least and most recently used
}

type use struct {
	topic        string // "": none
	older, newer int
}

// aliasSize is how many bytes longer an alias can make a packet: three for itself, and one for each of the two length fields.
const aliasSize = 5

// shortest is the length of the shortest topic for which an alias saves anything.
const shortest = aliasSize

// find returns the alias that the peer knows for a topic, 0 if there is none.
func (a *aliases) find(topic string) int {
	if len(a.uses) == 0 {
		return 0
	}
	if n := a.uses[0].older; a.uses[n].topic == topic {
		return n
	}
	n := a.numbers[topic]
	if n > 0 {
		a.unlink(n)
		a.link(n)
	}
	return n
}

// assign gives a topic that has none an alias.
func (a *aliases) assign(topic string) int {
	if len(a.uses) == 0 {
		a.uses = make([]use, 1, 8)
		a.numbers = make(map[string]int)
	}
	n := a.free()
	a.uses[n].topic = topic
	a.numbers[topic] = n
	a.link(n)
	return n
}

// free returns a number that stands for nothing now.
func (a *aliases) free() int {
	if n := len(a.uses); n <= a.maximum {
		a.uses = append(a.uses, use{})
		return n
	}
	n := a.uses[0].newer
	delete(a.numbers, a.uses[n].topic)
	a.unlink(n)
	return n
}

// link makes n the most recently used.
func (a *aliases) link(n int) {
	latest := a.uses[0].older
	a.uses[n].older, a.uses[n].newer = latest, 0
	a.uses[latest].newer, a.uses[0].older = n, n
}

func (a *aliases) unlink(n int) {
	u := &a.uses[n]
	a.uses[u.older].newer, a.uses[u.newer].older = u.newer, u.older
}

// forget takes back an alias whose packet was not sent.
func (a *aliases) forget(n int) {
	delete(a.numbers, a.uses[n].topic)
	a.uses[n].topic = ""
}
