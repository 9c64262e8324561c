package engine_test

import "testing"

// Scripts that several exchanges begin with: w is told of wills.
const watcher = `
	w! id=w clean
	w> 82(0001 {} 'will' 02)
	w< 90(0001 {} 02)
`

var sessionExchanges = []exchange{
	{"[MQTT-3.1.2-4] [MQTT311-3.1.2-6] [MQTT-3.1.4-4] [MQTT311-3.1.4-3] [MQTT-3.2.2-2] [MQTT311-3.2.2-1] a clean start throws away all there was: subscriptions, what waits, and what was half done", "", `
		a! id=a kept
		a> 82(0001 {} 't' 02) 34('u' 0007 {} "1")
		a< 90(0001 {} 02) 50(0007 +)
		b! id=b clean
		b> 32('t' 0001 {} "1")
		b< 40(0001 +)
		a< 32('t' ?m {} "1")
		a/
		b> 32('t' 0002 {} "2")
		b< 40(0002 +)
		a! id=a clean
		a~
		b> 32('t' 0003 {} "3")
		a~
		a> 82(0001 {} 'u' 00)
		a< 90(0001 {} 00)
		# The identifier is free again.
		a> 34('u' 0007 {} "2")
		a& 50(0007 +) 30('u' {} "2")
		a> 62(0007)
		a< 70(0007)`},
	{"[MQTT-3.1.2-4] whether the new session is kept depends on its own expiry", "5", `
		a! id=a clean expiry=100
		a> 82(0001 {} 't' 01)
		a< 90(0001 {} 01)
		a/
		a! present id=a expiry=100
		a> 32('t' 0001 {} "x")
		a& 40(0001 +) 32('t' ?m {} "x")`},
	{"[MQTT311-3.1.2-6] what was clean is never used again", "3", `
		a! id=a clean
		a> 82(0001 {} 't' 01)
		a< 90(0001 01)
		a/
		a! id=a
		a> 32('t' 0001 "x")
		a< 40(0001)
		a~`},
	{"[MQTT-3.1.2-5] [MQTT311-3.1.2-4] [MQTT-3.1.2-23] [MQTT-3.2.2-3] [MQTT311-3.2.2-2] [MQTT-4.5.0-1] [MQTT311-3.1.2-5] [MQTT311-4.5.0-1] a session that is kept goes on, and CONNACK says so: subscriptions, and what has come meanwhile", "", `
		a! id=a kept
		a> 82(0001 {} 't' 02)
		a< 90(0001 {} 02)
		a/
		b! id=b clean
		b> 32('t' 0001 {} "1") 34('t' 0002 {} "2") 30('t' {} "0")
		b< 40(0001 +) 50(0002 +)
		b> 62(0002)
		b< 70(0002)
		a! present id=a kept
		a< 32('t' ?1 {} "1") 34('t' ?2 {} "2")`},
	{"[MQTT-3.1.2-6] [MQTT311-3.1.2-4] [MQTT-3.2.2-3] [MQTT311-3.2.2-3] without a session one is made, and an empty one is one, too", "", `
		a! id=a kept
		a/
		a! present id=a kept
		a~`},
	{"[MQTT-4.1.0-1] [MQTT311-4.1.0-1] [MQTT311-4.1.0-2] a session lives as long as the connection, whatever its expiry", "5", `
		a! id=a expiry=1
		a> 82(0001 {} 't' 01)
		a< 90(0001 {} 01)
		wait 10s
		a/
		a! present id=a expiry=1
		a~`},
	{"[MQTT311-4.1.0-1] [MQTT311-4.1.0-2] and in MQTT 3.1.1 beyond it, unless it is clean", "3", `
		a! id=a
		a> 82(0001 't' 01)
		a< 90(0001 01)
		wait 10s
		a/
		wait 1000h
		a! present id=a
		a~`},
	{"[MQTT-4.1.0-2] it ends when its time is over", "5", `
		a! id=a expiry=10
		a/
		wait 9s
		a! present id=a expiry=10
		a/
		wait 11s
		a! id=a expiry=10
		a~`},
	{"[MQTT-4.1.0-2] at once", "5", `
		a! id=a expiry=0
		a/
		a! id=a
		a~`},
	{"[MQTT-4.1.0-2] or never", "5", `
		a! id=a expiry=4294967295
		a/
		wait 100000h
		a! present id=a
		a~`},
	{"[MQTT-4.1] [MQTT311-3.1.2-7] retained messages are no part of a session", "", `
		a! id=a kept
		a> 33('r' 0001 {} "x")
		a< 40(0001 +)
		a/
		a! id=a clean
		a> 82(0001 {} 'r' 00)
		a< 90(0001 {} 00) 31('r' {} "x")`},
	{"[MQTT-3.1.2.11.2] the expiry of the newest CONNECT counts", "5", `
		a! id=a expiry=100
		a/
		a! present id=a expiry=1
		a/
		wait 2s
		a! id=a expiry=100
		a/
		a! present id=a
		a/
		a! id=a
		a~`},
	{"[MQTT-3.14.2.2.2] DISCONNECT may change the expiry: to nothing", "5", `
		a! id=a expiry=100
		a> e0(00 {11 00000000})
		a.
		a! id=a expiry=100
		a~`},
	{"[MQTT-3.14.2.2.2] to more", "5", `
		a! id=a expiry=1
		a> e0(00 {11 ffffffff})
		a.
		wait 100h
		a! present id=a
		a~`},
	{"[MQTT-3.14.2.2.2] but not from nothing, and then the will is published", "5", watcher + `
		a! id=a will=will,x,0,0,0
		a> e0(00 {11 00000064})
		a# 82
		w< 30('will' {} "x")
		a! id=a
		a~`},
}

func TestSessionStatements(t *testing.T) { play(t, sessionExchanges) }

// Who has no right to a session does not get it. The specification leaves it to the server who may, section 5.4.2.
var ownerExchanges = []exchange{
	{"a session of another user", "", `
		a! id=c kept user=alice
		a> 82(0001 {} 't' 01)
		a< 90(0001 {} 01)
		b> 10('MQTT' VV 80 0000 {} 'c' 'bob')
		b% 85 02
		a~
		a/
		b> 10('MQTT' VV 00 0000 {} 'c')
		b% 85 02
		a! present id=c kept user=alice
		a~`},
	{"a session of nobody", "", `
		a! id=c kept
		a> 82(0001 {} 't' 01)
		a< 90(0001 {} 01)
		a/
		p! id=p clean
		p> 32('t' 0001 {} "x")
		p< 40(0001 +)
		b! id=c user=bob
		b~`},
}

func TestSessionOwners(t *testing.T) { play(t, ownerExchanges) }

var willExchanges = []exchange{
	{"[MQTT-3.1.2-8] [MQTT311-3.1.2-8] [MQTT-3.1.2-7] a will is published when the connection is cut", "", watcher + `
		a! id=a clean will=will,x,1,0,0
		w~
		a/
		w< 32('will' ?m {} "x")
		w> 40(?m)
		w~`},
	{"[MQTT-3.1.2-8] [MQTT311-3.1.2-8] when the client is silent", "", watcher + `
		a! id=a clean alive=10 will=will,x,0,0,0
		wait 16s
		a# 8d
		w< 30('will' {} "x")`},
	{"[MQTT-3.1.2-8] [MQTT311-3.1.2-8] [MQTT-4.13.1-1] [MQTT311-4.8.0-1] when it breaks the protocol", "", watcher + `
		a! id=a clean will=will,x,0,0,0
		a> 00()
		a# 81
		w< 30('will' {} "x")`},
	{"[MQTT-3.1.2-8] [MQTT311-3.1.2-8] [MQTT-3.1.4a] when another connection takes over", "", watcher + `
		a! id=a clean will=will,x,0,0,0
		b! id=a clean
		a# 8e
		w< 30('will' {} "x")`},
	{"[MQTT-3.1.2-8] [MQTT311-3.1.2-8] when a packet has come in part", "", watcher + `
		a! id=a clean will=will,x,0,0,0
		a> 30 0a 0001
		a/
		w< 30('will' {} "x")`},
	{"[MQTT-3.1.2-10] [MQTT311-3.1.2-10] [MQTT-3.14.4-3] [MQTT311-3.14.4-3] not after an ordinary DISCONNECT", "", watcher + `
		a! id=a clean will=will,x,0,0,0
		a> e0()
		a.
		w~`},
	{"[MQTT-3.14.4-3] after one that asks for it", "5", watcher + `
		a! id=a clean will=will,x,0,0,0
		a> e0(04)
		a.
		w< 30('will' {} "x")`},
	{"[MQTT-3.14.1-1] [MQTT311-3.14.1-1] [MQTT-3.14.4-3] after one with wrong flags", "", watcher + `
		a! id=a clean will=will,x,0,0,0
		a> e1()
		a# 81
		w< 30('will' {} "x")`},
	{"[MQTT-3.1.2-10] [MQTT311-3.1.2-10] [MQTT-3.1.2.5] [MQTT311-3.1.2-12] once, and not again for a later connection without a will", "", watcher + `
		a! id=a kept will=will,x,0,0,0
		a/
		w< 30('will' {} "x")
		a! present id=a kept
		a/
		w~`},
	{"[MQTT-3.1.2.5] [MQTT311-3.1.2-12] a will that was taken back is not that of the next connection", "", watcher + `
		a! id=a kept will=will,x,0,0,0
		a> e0()
		a.
		a! present id=a kept
		a/
		w~`},
	{"[MQTT-3.1.2-14] [MQTT311-3.1.2-16] without retain it leaves the retained message as it is", "", watcher + `
		w> 31('will' {} "old")
		w< 30('will' {} "old")
		a! id=a clean will=will,x,0,0,0
		a/
		w< 30('will' {} "x")
		b! id=b clean
		b> 82(0001 {} 'will' 00)
		b< 90(0001 {} 00) 31('will' {} "old")`},
	{"[MQTT-3.1.2-15] [MQTT311-3.1.2-17] with retain it is retained", "", watcher + `
		a! id=a clean will=will,x,0,1,0
		a/
		w< 30('will' {} "x")
		b! id=b clean
		b> 82(0001 {} 'will' 00)
		b< 90(0001 {} 00) 31('will' {} "x")`},
	{"[MQTT-3.1.3-9] [MQTT-3.1.3.2.2] [MQTT-3.1.2-8] a delay is waited for", "5", watcher + `
		a! id=a expiry=10 will=will,x,0,0,5
		a/
		wait 4s
		w~
		wait 2s
		w< 30('will' {} "x")
		a! present id=a expiry=10
		a~`},
	{"[MQTT-3.1.2-10] and not published again when the session ends", "5", watcher + `
		a! id=a expiry=10 will=will,x,0,0,5
		a/
		wait 6s
		w< 30('will' {} "x")
		wait 20s
		w~`},
	{"[MQTT-3.1.3.2.2] but not beyond the session", "5", watcher + `
		a! id=a expiry=5 will=will,x,0,0,10
		a/
		wait 4s
		w~
		wait 2s
		w< 30('will' {} "x")`},
	{"[MQTT-3.1.3.2.2] of which there is none without an expiry", "5", watcher + `
		a! id=a will=will,x,0,0,10
		a/
		w< 30('will' {} "x")`},
	{"[MQTT-3.1.3.2.2] nor after DISCONNECT with an expiry of 0", "5", watcher + `
		a! id=a expiry=10 will=will,x,0,0,10
		a> e0(04 {11 00000000})
		a.
		w< 30('will' {} "x")`},
	{"[MQTT-3.1.3-9] who comes back before that has no will published", "5", watcher + `
		a! id=a expiry=10 will=will,x,0,0,5
		a/
		wait 3s
		a! present id=a expiry=10
		wait 20s
		w~`},
	{"[MQTT-3.1.3.2.2] unless with a clean start, which ends the session", "5", watcher + `
		a! id=a expiry=10 will=will,x,0,0,5
		a/
		wait 3s
		a! id=a clean
		w< 30('will' {} "x")`},
	{"[MQTT-3.1.4a] a delayed will is not published when a connection takes over the session", "5", watcher + `
		a! id=a expiry=10 will=will,x,0,0,5
		b! present id=a expiry=10
		a# 8e
		wait 20s
		w~`},
	{"[MQTT-3.1.4a] it is, when that begins a new one", "5", watcher + `
		a! id=a expiry=10 will=will,x,0,0,5
		b! id=a clean
		a# 8e
		w< 30('will' {} "x")`},
	{"[MQTT-3.1.4a] or when there was none to be kept", "5", watcher + `
		a! id=a will=will,x,0,0,5
		b! id=a
		a# 8e
		w< 30('will' {} "x")`},
	{"[MQTT-3.1.3-10] its properties, and the order of its User Properties, are kept", "5", watcher + `
		a> 10('MQTT' 05 06 0000 {} 'a' {01 01 03 'text' 08 'r' 09 'd' 26 'k' '1' 26 'k' '2' 26 'a' '3'} 'will' 'x')
		a< 20(00 00 {*})
		a/
		w< 30('will' {01 01 03 'text' 08 'r' 09 'd' 26 'k' '1' 26 'k' '2' 26 'a' '3'} "x")`},
	{"[MQTT-3.1.2.6] [MQTT311-3.1.2.5] a will is for those whom its publisher's messages are for", "5", watcher + `
		a! id=a expiry=100 will=will,x,0,0,0
		a> 82(0001 {} 'will' 04)
		a< 90(0001 {} 00)
		a/
		w< 30('will' {} "x")
		a! present id=a expiry=100
		a~`},
	{"[MQTT-3.1.2.6] [MQTT-5.4.2] [MQTT311-5.4.2] whoever may not publish a will may not connect with it", "", watcher + `
		a> 10('MQTT' VV 06 0000 {} 'a' {} 'secret/x' 'x')
		a% 87 05`},
}

func TestWillStatements(t *testing.T) { play(t, willExchanges) }
