package engine

import (
	"encoding/binary"
	"slices"
	"sort"
	"sync"

	"github.com/petrel-mqtt/mqtt/internal/fifo"
)

// ledger says which stored messages a session, or a group, still needs. It belongs to its owner, whose lock guards it. One
// small record of it is written for all that has changed between two commits, however many messages were acknowledged.
type ledger struct {
	journal *journal
	number  uint64      // names the owner in the records of messages
	lock    sync.Locker // the owner's

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

// settle notes that the owner needs a message no more.
func (l *ledger) settle(m *message) {
	n := l.debts.Len()
	i := sort.Search(n, func(i int) bool { return l.debts.At(i).sequence >= m.sequence })
	if i == n || l.debts.At(i).sequence != m.sequence || l.debts.At(i).settled {
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

// record is the sequence up to which everything is settled, and then what is settled beyond that.
func (l *ledger) record() []byte {
	upTo := l.last
	if l.debts.Len() > 0 {
		upTo = l.debts.At(0).sequence - 1
	}
	b := binary.AppendUvarint(nil, upTo)
	for i := 0; i < l.debts.Len() && l.settled > 0; i++ {
		if d := l.debts.At(i); d.settled {
			b = binary.AppendUvarint(b, d.sequence)
		}
	}
	return b
}

// readLedger is the inverse of record.
func readLedger(b []byte) (upTo uint64, settled []uint64, ok bool) {
	r := recordReader{b: slices.Clone(b)}
	upTo = r.uvarint()
	for len(r.b) > 0 && !r.bad {
		settled = append(settled, r.uvarint())
	}
	return upTo, settled, !r.bad
}

// number is a number as a key: keys are in the order of their numbers.
func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
