// Words that the Go blocks of the documentation use without declaring them. A block that declares one of them itself has its
// own.
package words

import (
	"context"
	"database/sql"
	"net/http"

	"github.com/petrel-mqtt/mqtt"
)

var ctx context.Context

var err error

var client mqtt.ClientV5

var service mqtt.ClientV5

var sub *mqtt.Subscription

var msg mqtt.Message

var payload []byte

var password string

var header http.Header

var db *sql.DB

var tx *sql.Tx

var store mqtt.Store

var plugin broker.Plugin

var order struct{ Customer string }

func add(ctx context.Context, payload []byte) ([]byte, error) { return nil, nil }

func insert(ctx context.Context, batch []mqtt.Message) error { return nil }

func process(ctx context.Context, msg mqtt.Message) error { return nil }

func fetchToken(ctx context.Context) (string, error) { return "", nil }

func billing(client mqtt.ClientV5) {}
