package broker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/metrics"
	"time"

	"github.com/petrel-mqtt/mqtt/broker/internal/stats"
)

// monitor answers programs that watch the broker, by HTTP:
//
//	/metrics   numbers for Prometheus
//	/healthz   200 as long as the process answers
//	/readyz    200 if clients can connect and what they publish can be kept, 503 with the reason otherwise
type monitor struct {
	socket net.Listener
	server *http.Server
	ended  chan struct{} // closed when nothing is served any more
}

// watched is what a monitor asks. It is called from several goroutines at once.
type watched interface {
	snapshot() stats.Snapshot
	ready() error
}

// startMonitor listens and answers until stop.
func startMonitor(ctx context.Context, bind string, w watched, log *slog.Logger) (*monitor, error) {
	l := metricsListener(bind)
	socket, err := new(net.ListenConfig).Listen(ctx, l.network(), bind)
	if err != nil {
		return nil, listenError(l, err)
	}
	m := &monitor{socket: socket, ended: make(chan struct{})}
	m.server = &http.Server{
		Handler:        handler(w),
		ReadTimeout:    10 * time.Second,
		WriteTimeout:   10 * time.Second,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(m.ended)
		m.server.Serve(socket)
	}()
	return m, nil
}

// metricsListener is the monitor's address, for what is common to all.
func metricsListener(bind string) Listener {
	return Listener{Name: "metrics", Bind: bind, where: "metrics-bind"}
}

func handler(w watched) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		stats.WriteMetrics(rw, w.snapshot())
	})
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "ok\n") })
	mux.HandleFunc("GET /readyz", func(rw http.ResponseWriter, _ *http.Request) {
		if err := w.ready(); err != nil {
			http.Error(rw, err.Error(), http.StatusServiceUnavailable)
			return
		}
		io.WriteString(rw, "ok\n")
	})
	return mux
}

// stop ends at once: what is being answered is cut off. Nil has not been started.
func (m *monitor) stop() {
	if m != nil {
		m.server.Close()
		<-m.ended
	}
}

// heap returns the bytes of objects on the heap, without stopping the world.
func heap() int64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return int64(sample[0].Value.Uint64())
}

var (
	errShuttingDown = errors.New("the broker is shutting down")
	errStoreFails   = errors.New("the persistence file cannot be written")
)
