// Package broker is an MQTT 5.0 and 3.1.1 broker to embed, and what the command petrel broker runs. Its configuration
// files are HBMQTT's. What it promises, and by what it is bounded, is in docs/broker.md of the repository.
//
//	b, err := broker.New(broker.DefaultConfig())
//	…
//	err = b.Start(ctx)
//	…
//	err = b.Shutdown(ctx)
//
// For tests of a client, mqtttest is the better one: it is in memory, works in virtual time, and can be told to fail.
package broker
