package stats

import (
	"math"
	"strconv"
	"time"
)

// Topic is a topic under $SYS and what it says.
type Topic struct{ Name, Payload string }

const root = "$SYS/broker/"

// Sys makes the topics under $SYS. It is for one goroutine.
type Sys struct {
	last  Snapshot           // of the latest Update
	loads map[string]float64 // the averages, by topic
	said  map[string]string  // by topic what it says
}

// NewSys returns a Sys that has said nothing.
func NewSys() *Sys { return &Sys{loads: map[string]float64{}, said: map[string]string{}} }

// spans are what averages are taken over.
var spans = []struct {
	name string
	of   time.Duration
}{{"1min", time.Minute}, {"5min", 5 * time.Minute}, {"15min", 15 * time.Minute}}

// Update returns the topics that say something else than before.
func (s *Sys) Update(now Snapshot) (changed []Topic) {
	say := func(name, text string) {
		if name = root + name; s.said[name] != text {
			s.said[name] = text
			changed = append(changed, Topic{name, text})
		}
	}
	say("version", now.Version)
	say("uptime", strconv.FormatInt(int64(now.Uptime/time.Second), 10)+" seconds")
	for _, r := range rows {
		for _, name := range r.topics {
			say(name, strconv.FormatInt(r.of(&now), 10))
		}
		if r.load == "" {
			continue
		}
		for _, span := range spans {
			name := "load/" + r.load + "/" + span.name
			s.loads[name] = s.average(s.loads[name], r.of(&now)-r.of(&s.last), now.Uptime-s.last.Uptime, span.of)
			say(name, strconv.FormatFloat(s.loads[name], 'f', 2, 64))
		}
	}
	s.last = now
	return changed
}

// average moves an average, of so many a minute, on by what has come in a time.
func (s *Sys) average(before float64, came int64, in, span time.Duration) float64 {
	if in <= 0 {
		return before
	}
	rate := float64(came) / in.Minutes()
	return rate + (before-rate)*math.Exp(-float64(in)/float64(span))
}
