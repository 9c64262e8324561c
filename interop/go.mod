module github.com/petrel-mqtt/mqtt/interop

go 1.25.0

require (
	github.com/mochi-mqtt/server/v2 v2.7.9
	github.com/petrel-mqtt/mqtt v0.0.0
)

require (
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/gorilla/websocket v1.5.3 // indirect
	github.com/rs/xid v1.4.0 // indirect
	golang.org/x/sync v0.22.0 // indirect
)

replace github.com/petrel-mqtt/mqtt => ../
