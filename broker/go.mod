module github.com/petrel-mqtt/mqtt/broker

go 1.25.0

require (
	github.com/go-crypt/crypt v0.14.15
	github.com/gorilla/websocket v1.5.3
	github.com/petrel-mqtt/mqtt v0.1.0
	go.etcd.io/bbolt v1.5.0
	go.yaml.in/yaml/v3 v3.0.6
	golang.org/x/crypto v0.55.0
)

require (
	github.com/go-crypt/x v0.4.16 // indirect
	github.com/google/go-cmp v0.7.0
	golang.org/x/sys v0.47.0 // indirect
)
