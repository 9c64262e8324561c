module github.com/petrel-mqtt/mqtt/interop

go 1.25.0

require github.com/petrel-mqtt/mqtt v0.0.0

require golang.org/x/sync v0.22.0 // indirect

replace github.com/petrel-mqtt/mqtt => ../
