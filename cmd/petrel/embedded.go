package main

import "github.com/petrel-mqtt/mqtt/mqtttest"

// embedded starts a broker on the loopback interface.
func embedded() (url string, stop func(), err error) {
	b := mqtttest.New(mqtttest.KeepReceived(0))
	return b.Listen(), b.Close, nil
}
