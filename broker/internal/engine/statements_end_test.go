package engine_test

import (
	"testing"

	"github.com/petrel-mqtt/mqtt/broker/internal/engine"
)

var disconnectExchanges = []exchange{
	{"[MQTT-3.14.4-1] [MQTT311-3.14.4-2] what follows DISCONNECT is not looked at", "", `
		s! id=s clean
		s> 82(0001 {} '#' 00)
		s< 90(0001 {} 00)
		a! id=a clean
		a> 30('t' {} "1") e0() 30('t' {} "2")
		a.
		s< 30('t' {} "1")
		s~`},
	{"[MQTT-3.14.4-2] [MQTT311-3.14.4-1] after it the broker closes the connection", "", "a! id=a clean\na> e0()\na."},
	{"[MQTT-3.14.4] [MQTT311-3.14.4] it ends the connection, not the session", "", `
		a! id=a kept
		a> e0()
		a.
		a! present id=a kept
		a~`},
	{"[MQTT-3.14.2-1] [MQTT-3.14.2-2] [MQTT-3.14.4-1] the broker's own DISCONNECT has a code of its table, no expiry, and nothing after it", "5", `
		a! id=a expiry=100
		a> 82(0001 {} 't' 00)
		a< 90(0001 {} 00)
		b! present id=a expiry=100
		a< e0(8e)
		b> 30('t' {} "1")
		a.
		b< 30('t' {} "1")`},
}

func TestDisconnectStatements(t *testing.T) { play(t, disconnectExchanges) }

var authExchanges = []exchange{
	{"[MQTT-4.12.0-2] [MQTT-4.12.0-3] [MQTT-4.12.0-5] [MQTT-3.15.2-1] [MQTT-3.2.0-1] [MQTT-3.2.0-2] an exchange, and another one on the connection, during which everything goes on", "5", `
		a> 10('MQTT' 05 02 0000 {15 'M' 16 '1'} 'a')
		a< f0(18 {15 'M' 16 '2'})
		a> f0(18 {15 'M' 16 '3'})
		a< 20(00 00 {*})
		a> f0(19 {15 'M' 16 '1'})
		a< f0(18 {15 'M' 16 '2'})
		a> 82(0001 {} 't' 00) 30('t' {} "x")
		a< 90(0001 {} 00) 30('t' {} "x")
		a> f0(18 {15 'M' 16 '3'})
		a< f0(00 {15 'M' 16 '4'})
		a~`},
	{"[MQTT-4.12.0-5] CONNACK has the method, and the last data of the broker", "5", `
		a> 10('MQTT' 05 02 0000 {15 'M' 16 '3'} 'a')
		a< 20(00 00 {21 0400 27 00010000 22 0040 15 'M' 16 '4'})`},
	{"[MQTT-4.12.0-1] a method that there is not", "5", "a> 10('MQTT' 05 02 0000 {15 'N' 16 '1'} 'a')\na% 8c --"},
	{"[MQTT-4.12.0-3] an answer with another code", "5", `
		a> 10('MQTT' 05 02 0000 {15 'M' 16 '1'} 'a')
		a< f0(18 {15 'M' 16 '2'})
		a> f0(19 {15 'M' 16 '3'})
		a% 82 --`},
	{"[MQTT-4.12.0-5] an answer with another method", "5", `
		a> 10('MQTT' 05 02 0000 {15 'M' 16 '1'} 'a')
		a< f0(18 {15 'M' 16 '2'})
		a> f0(18 {15 'N' 16 '3'})
		a% 82 --`},
	{"[MQTT-4.12.0-4] a wrong proof", "5", `
		a> 10('MQTT' 05 02 0000 {15 'M' 16 '1'} 'a')
		a< f0(18 {15 'M' 16 '2'})
		a> f0(18 {15 'M' 16 'x'})
		a% 86 --`},
	{"[MQTT-4.12.0-4] [MQTT-3.1.4-2] an answer that no packet can hold refuses the client, and ends a connection", "5", `
		a> 10('MQTT' 05 02 0000 {15 'M' 16 'big'} 'a')
		a% 86 --
		a> 10('MQTT' 05 02 0000 {15 'M' 16 '3'} 'a')
		a< 20(00 00 {*})
		a> f0(19 {15 'M' 16 'big'})
		a# 87`},
	{"[MQTT-4.12.0-6] who asked for no method sees none", "5", `
		a> 10('MQTT' 05 02 0000 {} 'a')
		a< 20(00 00 {21 0400 27 00010000 22 0040})`},
	{"[MQTT-4.12.0-7] and may not send AUTH", "5", "a! id=a clean\na> f0(19 {15 'M' 16 '1'})\na# 82"},
	{"[MQTT-3.15.2.2.2] AUTH without a method", "5", "a! id=a clean\na> f0(19 {})\na# 82"},
	{"[MQTT-4.12.1-1] another method in the next exchange", "5", `
		a> 10('MQTT' 05 02 0000 {15 'M' 16 '3'} 'a')
		a< 20(00 00 {*})
		a> f0(19 {15 'N' 16 '1'})
		a# 82`},
	{"[MQTT-4.12.1-1] two exchanges at a time", "5", `
		a> 10('MQTT' 05 02 0000 {15 'M' 16 '3'} 'a')
		a< 20(00 00 {*})
		a> f0(19 {15 'M' 16 '1'}) f0(19 {15 'M' 16 '1'})
		a< f0(18 {15 'M' 16 '2'})
		a# 82`},
	{"[MQTT-3.15.2-1] AUTH with 0x18 and nothing under way", "5", `
		a> 10('MQTT' 05 02 0000 {15 'M' 16 '3'} 'a')
		a< 20(00 00 {*})
		a> f0(18 {15 'M' 16 '1'})
		a# 82`},
	{"[MQTT-3.15.2-1] AUTH with 0x00 from a client", "5", `
		a> 10('MQTT' 05 02 0000 {15 'M' 16 '3'} 'a')
		a< 20(00 00 {*})
		a> f0(00 {15 'M'})
		a# 82`},
	{"[MQTT-4.12.1-2] who fails is disconnected, and the will is published", "5", `
		w! id=w clean
		w> 82(0001 {} 'will' 00)
		w< 90(0001 {} 00)
		a> 10('MQTT' 05 06 0000 {15 'M' 16 '3'} 'a' {} 'will' 'x')
		a< 20(00 00 {*})
		a> f0(19 {15 'M' 16 'x'})
		a# 87
		w< 30('will' {} "x")`},
	{"[MQTT-3.15.2-2] [MQTT-3.15.2-3] to a client that takes hardly anything, AUTH has no more than it must", "5", `
		a> 10('MQTT' 05 02 0000 {15 'M' 16 '3' 27 00000012} 'a')
		a< 20(00 00 {*})
		a> f0(19 {15 'M' 16 '1'})
		a< f0(18 {15 'M' 16 '2'})`},
}

func TestAuthStatements(t *testing.T) { play(t, authExchanges) }

// What cannot be kept is not acknowledged: MQTT 5.0 has a code for that, MQTT 3.1.1 has nothing except the end of the connection.
func TestNothingCanBeKept(t *testing.T) {
	full := func(c *engine.Config) {
		store := new(fakeStore)
		store.full.Store(true)
		c.Store = store
	}
	playWith(t, full, []exchange{
		{"[MQTT-4.13.2] MQTT 5.0", "5", `
			a! id=a clean
			a> 33('t' 0001 {} "x")
			wait 1h
			a< 40(0001 97 *)
			a~`},
		{"[MQTT311-4.8.0-2] MQTT 3.1.1", "3", `
			a! id=a clean
			a> 33('t' 0001 "x")
			wait 1h
			a.`},
	})
}
