module github.com/petrel-mqtt/mqtt/boltstore

go 1.25.0

require (
	github.com/petrel-mqtt/mqtt v0.1.0
	go.etcd.io/bbolt v1.5.0
)

require (
	github.com/google/go-cmp v0.7.0 // indirect
	github.com/gorilla/websocket v1.5.3 // indirect
	golang.org/x/sys v0.45.0 // indirect
)
