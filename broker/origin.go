package broker

import (
	"net/http"
	"slices"
	"strings"
)

// admitsOrigin reports whether the page that opens a WebSocket connection may. MQTT has credentials of its own and no
// cookies, so that without a list every page may.
func (l *Listener) admitsOrigin(r *http.Request) bool {
	origins := r.Header["Origin"]
	return l.Origins == nil || len(origins) == 0 || slices.ContainsFunc(l.Origins, func(o string) bool {
		return strings.EqualFold(o, origins[0])
	})
}
