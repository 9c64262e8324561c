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
	gaps    bool             // debts beyond the first one were settled, and are not there any more
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
	l.last = max(l.last, m.sequence)
}

// enterSettled notes that the store has a message for others which the owner needs no more: the record has to go on saying so.
func (l *ledger) enterSettled(m *message) {
	l.last = max(l.last, m.sequence)
	l.gaps = l.gaps || l.debts.Len() > 0
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
	l.compact()
	if !l.gone {
		l.journal.spoil(l)
	}
	l.journal.settle(m)
}

// compact lets go of what is settled when that is most of it. A message that is not acknowledged, or waits, while thousands
// after it come and go takes no more memory than another one, and no longer record.
func (l *ledger) compact() {
	if l.settled > compactFrom && 2*l.settled > l.debts.Len() {
		for range l.debts.Len() {
			if d := l.debts.Pop(); !d.settled {
				l.debts.Push(d)
			}
		}
		l.settled, l.gaps = 0, true
	}
	l.gaps = l.gaps && l.debts.Len() > 0
}

// compactFrom is how many settled debts a ledger may have in any case.
const compactFrom = 64

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
		l.last = r.last
	}
}

// ledgerOf returns an empty ledger of a session.
func (s *Session) ledgerOf(number uint64) *ledger {
	return &ledger{journal: s.engine.journal, number: number, lock: &s.mu, state: s.state}
}

// record is the sequence up to which everything is settled, and the latest packet identifier. If more is settled beyond that
// there follow 0, the latest sequence that the record knows of, and what is not settled until there: its distances, except
// for the first one, which is next to the first sequence.
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
	if l.settled == 0 && !l.gaps {
		return b
	}
	b = binary.AppendUvarint(append(b, 0), l.last)
	before := upTo + 1
	for i := 1; i < l.debts.Len(); i++ {
		if d := l.debts.At(i); !d.settled {
			b = binary.AppendUvarint(b, d.sequence-before)
			before = d.sequence
		}
	}
	return b
}

// restoredLedger is what the store has of a ledger; nil: nothing.
type restoredLedger struct {
	upTo   uint64
	lastID uint16
	last   uint64          // beyond it nothing is settled
	open   map[uint64]bool // what is not settled beyond upTo, as far as last
}

// newRestoredLedger is the inverse of record.
func newRestoredLedger(record []byte) (*restoredLedger, error) {
	r := recordReader{b: slices.Clone(record)}
	l := &restoredLedger{upTo: r.uvarint(), lastID: uint16(r.uvarint())}
	l.last = l.upTo
	if len(r.b) > 0 {
		r.bad = r.uvarint() != 0 || r.bad
		l.last = max(l.last, r.uvarint())
		sequence := l.upTo + 1
		l.open = map[uint64]bool{sequence: true}
		for len(r.b) > 0 && !r.bad {
			sequence += r.uvarint()
			l.open[sequence] = true
		}
	}
	if r.bad {
		return nil, errRecord
	}
	return l, nil
}

// needs reports whether the owner needs a message.
func (l *restoredLedger) needs(sequence uint64) bool {
	return l == nil || sequence > l.last || l.open[sequence]
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
