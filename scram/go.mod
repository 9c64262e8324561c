module github.com/petrel-mqtt/mqtt/scram

go 1.25.0

require (
	github.com/mochi-mqtt/server/v2 v2.7.9
	github.com/petrel-mqtt/mqtt v0.0.0
	github.com/xdg-go/scram v1.4.0
)

require (
	github.com/gorilla/websocket v1.5.3 // indirect
	github.com/rs/xid v1.4.0 // indirect
	github.com/xdg-go/stringprep v1.0.4 // indirect
	golang.org/x/sync v0.22.0 // indirect
	golang.org/x/text v0.21.0 // indirect
)

replace github.com/petrel-mqtt/mqtt => ../
