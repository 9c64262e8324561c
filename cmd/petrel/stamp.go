package main

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"time"
)

// stamp is what a benchmark writes at the beginning of a payload.
type stamp struct {
	run       uint64 // of the benchmark: others may publish to the same topic
	publisher uint32
	sequence  uint64        // from 0
	sent      time.Duration // since the benchmark's start
}

// stampSize is how many bytes it takes.
const stampSize = 28

// put writes the stamp into a payload.
func (s stamp) put(payload []byte) {
	binary.BigEndian.PutUint64(payload, s.run)
	binary.BigEndian.PutUint32(payload[8:], s.publisher)
	binary.BigEndian.PutUint64(payload[12:], s.sequence)
	binary.BigEndian.PutUint64(payload[20:], uint64(s.sent))
}

// readStamp reads the stamp of a payload; ok says whether it is one of this run.
func readStamp(payload []byte, run uint64) (s stamp, ok bool) {
	if len(payload) < stampSize {
		return stamp{}, false
	}
	s = stamp{
		run:       binary.BigEndian.Uint64(payload),
		publisher: binary.BigEndian.Uint32(payload[8:]),
		sequence:  binary.BigEndian.Uint64(payload[12:]),
		sent:      time.Duration(binary.BigEndian.Uint64(payload[20:])),
	}
	return s, s.run == run
}

// stream is what one subscriber got from one publisher.
type stream struct {
	seen       []uint64 // a bit for each sequence number
	next       uint64   // after the highest that has come
	duplicates int
	disorder   int // messages that came after a later one, duplicates left out
}

// mostSequence bounds the memory of a stream: 32 MiB.
const mostSequence = 1 << 28

func (s *stream) note(sequence uint64) {
	if sequence >= mostSequence {
		return
	}
	word, bit := sequence/64, uint64(1)<<(sequence%64)
	for uint64(len(s.seen)) <= word {
		s.seen = append(s.seen, 0)
	}
	switch {
	case s.seen[word]&bit != 0:
		s.duplicates++
	case sequence < s.next:
		s.disorder++
	}
	s.seen[word] |= bit
	s.next = max(s.next, sequence+1)
}

// distinct returns how many different messages have come.
func (s *stream) distinct() int {
	n := 0
	for _, w := range s.seen {
		n += bits.OnesCount64(w)
	}
	return n
}

// ledger is what one subscriber got. Its methods may be called concurrently.
type ledger struct {
	mu      sync.Mutex
	streams map[uint32]*stream // by publisher
}

func (l *ledger) note(s stamp) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.streams == nil {
		l.streams = map[uint32]*stream{}
	}
	if l.streams[s.publisher] == nil {
		l.streams[s.publisher] = new(stream)
	}
	l.streams[s.publisher].note(s.sequence)
}

// sum returns totals over all publishers.
func (l *ledger) sum() (distinct, duplicates, disorder int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams {
		distinct += s.distinct()
		duplicates += s.duplicates
		disorder += s.disorder
	}
	return distinct, duplicates, disorder
}
