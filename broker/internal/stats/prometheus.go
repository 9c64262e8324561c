package stats

import (
	"bufio"
	"fmt"
	"io"
)

// prefix begins the name of each metric.
const prefix = "petrel_broker_"

// WriteMetrics writes a snapshot in Prometheus' text format, version 0.0.4.
func WriteMetrics(w io.Writer, s Snapshot) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "# HELP %[1]sinfo The version of the broker.\n# TYPE %[1]sinfo gauge\n%[1]sinfo{version=%[2]q} 1\n", prefix, s.Version)
	fmt.Fprintf(b, "# HELP %[1]suptime_seconds How long the broker runs.\n# TYPE %[1]suptime_seconds gauge\n%[1]suptime_seconds %[2]g\n",
		prefix, s.Uptime.Seconds())
	for _, r := range rows {
		kind := "gauge"
		if r.counter {
			kind = "counter"
		}
		fmt.Fprintf(b, "# HELP %[1]s%[2]s %[3]s\n# TYPE %[1]s%[2]s %[4]s\n%[1]s%[2]s %[5]d\n", prefix, r.metric, r.help, kind, r.of(&s))
	}
	return b.Flush()
}
