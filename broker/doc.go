// Package broker is an MQTT 5.0 and 3.1.1 broker to embed, and what the command petrel broker runs. Its configuration
// files are HBMQTT's. The protocol is done by github.com/mochi-mqtt/server, which shares nothing with Petrel's client.
//
//	b, err := broker.New(broker.DefaultConfig())
//	…
//	err = b.Start(ctx)
//	…
//	err = b.Shutdown(ctx)
//
// For tests of a client, mqtttest is the better one: it is in memory, works in virtual time, and can be told to fail.
package broker
