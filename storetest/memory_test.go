package storetest_test

import (
	"testing"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) (mqtt.Store, func() mqtt.Store) {
		m := new(storetest.Memory)
		return m, func() mqtt.Store { return m.Crash() }
	})
}
