package mqtt

import (
	"slices"

	"github.com/petrel-mqtt/mqtt/internal/route"
)

// suspicion is what is known of SUBSCRIBEs that may make the server close the connection, see probe.go.
type suspicion struct {
	// Guarded by mu.
	losses map[string]int // by filter: connections in a row that were lost while its SUBSCRIBE waited for an answer
	line   []subscribing  // of filters under suspicion, one each, to be sent on this connection
	blamed bool           // the latest connection was lost while a SUBSCRIBE waited for an answer
}

// suspicious is how many losses put a filter under suspicion: one may have any reason.
const suspicious = 2

// lineUp puts those of a subscription's routes in line that are under suspicion, and returns the others.
// The caller holds mu.
func (p *suspicion) lineUp(s *Subscription, routes []*route.Route) (others []*route.Route) {
	for _, rt := range routes {
		if p.losses[rt.Filter()] >= suspicious {
			p.line = append(p.line, subscribing{s, []*route.Route{rt}})
		} else {
			others = append(others, rt)
		}
	}
	return others
}

// next takes the route out of line that ended the fewest connections.
// The caller holds mu.
func (p *suspicion) next() subscribing {
	best := 0
	for i := range p.line {
		if p.count(i) < p.count(best) {
			best = i
		}
	}
	next := p.line[best]
	p.line = slices.Delete(p.line, best, best+1)
	return next
}

// The caller holds mu.
func (p *suspicion) count(i int) int { return p.losses[p.line[i].routes[0].Filter()] }

// acquit notes that the server has answered a SUBSCRIBE.
// The caller holds mu.
func (p *suspicion) acquit(q *filterPacket) {
	for _, f := range q.filters {
		delete(p.losses, f)
	}
}

// note notes that the connection was lost before the answer to the SUBSCRIBE of a filter, and returns how often in a row.
// The caller holds mu.
func (p *suspicion) note(filter string) int {
	if p.losses == nil {
		p.losses = make(map[string]int)
	}
	p.losses[filter]++
	return p.losses[filter]
}
