package engine

import (
	"encoding/binary"
	"slices"
	"sort"
	"sync"

	"github.com/petrel-mqtt/mqtt/internal/fifo"
	"github.com/petrel-mqtt/mqtt/internal/session"
)

// ledger says which stored messages a session, or a group, still needs, and how far a session is with its packet
// identifiers. It belongs to its owner, whose lock guards it. One small record of it is written for all that has changed
// between two commits, however many messages were acknowledged.
type ledger struct {
	journal *journal
	number  uint64           // names the owner in the records of messages
	lock    sync.Locker      // the owner's
	state   *session.Session // the owner's; nil: it is a group

	debts   fifo.Queue[debt] // in the order of their messages; the first one is not settled
	last    uint64           // sequence of the latest message that was entered
	settled int              // debts that are settled, and are not the first
	gone    bool             // the owner has ended
}

// debt is a stored message that the owner needs, or one that is settled while an earlier one is not.
type debt struct {
	sequence uint64
	settled  bool
}

// enter notes that the owner needs a message. Messages are entered in the order of their sequence.
func (l *ledger) enter(m *message) {
	l.debts.Push(debt{sequence: m.sequence})
	l.last = m.sequence
}

// enterSettled notes that the store has a message for others which the owner needs no more: the record has to go on saying so.
func (l *ledger) enterSettled(m *message) {
	l.last = max(l.last, m.sequence)
	if l.debts.Len() > 0 {
		l.debts.Push(debt{m.sequence, true})
		l.settled++
	}
}

// has reports whether the owner needs a message.
func (l *ledger) has(m *message) bool { return l.find(m) >= 0 }

// find returns the place of a message that the owner needs, or -1.
func (l *ledger) find(m *message) int {
	n := l.debts.Len()
	i := sort.Search(n, func(i int) bool { return l.debts.At(i).sequence >= m.sequence })
	if i == n || l.debts.At(i).sequence != m.sequence || l.debts.At(i).settled {
		return -1
	}
	return i
}

// settle notes that the owner needs a message no more.
func (l *ledger) settle(m *message) {
	i := l.find(m)
	if i < 0 {
		return
	}
	l.debts.At(i).settled = true
	l.settled++
	for l.debts.Len() > 0 && l.debts.At(0).settled {
		l.debts.Pop()
		l.settled--
	}
	if !l.gone {
		l.journal.spoil(l)
	}
	l.journal.settle(m)
}

// settle notes that one owner less needs a message. The last one has its record removed.
func (j *journal) settle(m *message) {
	if m.debts.Add(-1) == 0 {
		j.lazily(Change{Bucket: bucketMessages, Key: number(m.sequence)})
	}
}

// changes returns the record of the ledger.
func (l *ledger) changes() []Change {
	l.lock.Lock()
	defer l.lock.Unlock()
	if l.gone {
		return nil
	}
	return []Change{{bucketLedgers, number(l.number), l.record()}}
}

// resume lets a ledger go on where its record ends; nil: there is none. Messages are entered after that.
func (l *ledger) resume(r *restoredLedger) {
	if r != nil {
		l.last = r.upTo
	}
}

// ledgerOf returns an empty ledger of a session.
func (s *Session) ledgerOf(number uint64) *ledger {
	return &ledger{journal: s.engine.journal, number: number, lock: &s.mu, state: s.state}
}

// record is the sequence up to which everything is settled, the latest packet identifier, and then what is settled beyond
// that sequence.
func (l *ledger) record() []byte {
	upTo := l.last
	if l.debts.Len() > 0 {
		upTo = l.debts.At(0).sequence - 1
	}
	var lastID uint16
	if l.state != nil {
		lastID = l.state.LastID()
	}
	b := binary.AppendUvarint(binary.AppendUvarint(nil, upTo), uint64(lastID))
	for i := 0; i < l.debts.Len() && l.settled > 0; i++ {
		if d := l.debts.At(i); d.settled {
			b = binary.AppendUvarint(b, d.sequence)
		}
	}
	return b
}

// restoredLedger is what the store has of a ledger; nil: nothing.
type restoredLedger struct {
	upTo    uint64
	lastID  uint16
	settled map[uint64]bool
}

// newRestoredLedger is the inverse of record.
func newRestoredLedger(record []byte) (*restoredLedger, error) {
	r := recordReader{b: slices.Clone(record)}
	l := &restoredLedger{upTo: r.uvarint(), lastID: uint16(r.uvarint()), settled: map[uint64]bool{}}
	for len(r.b) > 0 && !r.bad {
		l.settled[r.uvarint()] = true
	}
	if r.bad {
		return nil, errRecord
	}
	return l, nil
}

// needs reports whether the owner needs a message.
func (l *restoredLedger) needs(sequence uint64) bool {
	return l == nil || sequence > l.upTo && !l.settled[sequence]
}

// halfCircle is half of all packet identifiers.
const halfCircle = 1 << 15

// startAt is the packet identifier that a session goes on after. A client may still acknowledge what an earlier process has
// sent it at QoS 1: those identifiers are far away.
func (l *restoredLedger) startAt() uint16 {
	if l == nil {
		return halfCircle
	}
	return l.lastID + halfCircle
}

// number is a number as a key: keys are in the order of their numbers.
func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
