package link

import (
	"testing"
	"testing/synctest"

	"github.com/petrel-mqtt/mqtt/codec"
)

// A server that sends and does not read must not fill our memory with answers.
func TestFloodedReaderWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, Config{})
		answer := make([]byte, 1<<20)
		s.owner.onPacket = func(codec.Header, []byte) error {
			s.Commit(append(s.Buffer(), answer...))
			return nil
		}
		s.cable.limit(0)
		s.Start(s.owner, 0)
		defer s.stop()
		const packets = 200
		for range packets {
			s.cable.feed(packet(0x30, 1))
			synctest.Wait()
		}
		got := len(s.owner.got())
		if most := answerBound>>20 + batch; got > most || got == packets {
			t.Errorf("%d packets were answered while the server read nothing, want at most %d", got, most)
		}
		s.cable.limit(unlimited)
		synctest.Wait()
		if got += len(s.owner.got()); got != packets {
			t.Errorf("%d packets were answered in the end, want %d", got, packets)
		}
	})
}

// The wait ends with the link.
func TestFloodedReaderEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStation(t, Config{})
		s.owner.onPacket = func(codec.Header, []byte) error {
			s.Commit(append(s.Buffer(), make([]byte, 2*answerBound)...))
			return nil
		}
		s.cable.limit(0)
		s.Start(s.owner, 0)
		s.cable.feed(packet(0x30, 1), packet(0x30, 2))
		synctest.Wait()
		s.stop()
	})
}
