package engine_test

import (
	"fmt"
	"strings"
	"testing"
)

var aliveExchanges = []exchange{
	{"[MQTT-3.1.2-22] [MQTT311-3.1.2-24] [MQTT-3.2.2-22] [MQTT-4.13.2-1] a silent client is cut after one and a half keep alives, not before", "", `
		a! id=a clean alive=10
		wait 14500ms
		a~
		wait 14500ms
		a~
		wait 15500ms
		a# 8d`},
	{"[MQTT-3.1.2-22] [MQTT311-3.1.2-24] what the client gets does not count, nor does a part of a packet", "", `
		a! id=a clean alive=10
		a> 82(0001 {} 't' 00)
		a< 90(0001 {} 00)
		b! id=b clean
		wait 8s
		b> 30('t' {} "x")
		a< 30('t' {} "x")
		a> 30
		wait 8s
		a# 8d`},
	{"[MQTT-3.1.2-22] [MQTT311-3.1.2-24] any packet of the client does", "", `
		a! id=a clean alive=10
		wait 14s
		a> 30('t' {} "x")
		wait 14s
		a~`},
	{"[MQTT-3.1.2.10] [MQTT311-3.1.2.10] with a keep alive of 0 nobody is cut", "", `
		a! id=a clean
		wait 1000h
		a~`},
	{"[MQTT-3.12.4-1] [MQTT311-3.12.4-1] PINGREQ is answered", "", `
		a! id=a clean
		a> c0() c0()
		a< d0() d0()
		a~`},
	{"[MQTT-3.12.4-1] [MQTT-3.3.4-10] [MQTT-4.9.0-3] [MQTT-3.3.4-9] [MQTT-4.9.0-1] [MQTT-4.9.0-2] also when the window is full, and so is everything except PUBLISH at QoS 1 and 2", "5", `
		a! id=a clean window=1
		a> 82(0001 {} 't/#' 02)
		a< 90(0001 {} 02)
		b! id=b clean
		b> 34('t/1' 0001 {} "1") 32('t/2' 0002 {} "2")
		b< 50(0001 +) 40(0002 +)
		b> 62(0001)
		b< 70(0001)
		a< 34('t/1' ?1 {} "1")
		a~
		a> 82(0002 {} 'u' 00) 32('v' 0001 {} "y")
		a< 90(0002 {} 00) 40(0001 +)
		# PUBREC frees nothing, PUBCOMP does.
		a> 50(?1)
		a< 62(?1)
		a~
		a> 70(?1)
		a< 32('t/2' ?2 {} "2")
		a> 40(?2)
		a~`},
}

func TestKeepAliveStatements(t *testing.T) { play(t, aliveExchanges) }

const subscriber = `
	s! id=s clean
	s> 82(0001 {} 't/#' 02)
	s< 90(0001 {} 02)
`

var publishExchanges = []exchange{
	{"[MQTT-3.3.4-1] [MQTT311-3.3.4-1] [MQTT-4.3.2-4] [MQTT311-4.3.2-2] [MQTT-4.3.3-8] [MQTT-4.3.3-11] [MQTT311-4.3.3-2] [MQTT-4.3.1-1] [MQTT311-4.3.1-1] [MQTT-2.2.1-2] [MQTT311-2.3.1-5] a message is answered as its QoS demands, and delivered", "", subscriber + `
		a! id=a clean
		a> 30('t/0' {} "0") 32('t/1' 0001 {} "1") 34('t/2' 0002 {} "2")
		a< 40(0001 +) 50(0002 +)
		s< 30('t/0' {} "0") 32('t/1' ?1 {} "1")
		a> 62(0002)
		a< 70(0002)
		s< 34('t/2' ?2 {} "2")`},
	{"[MQTT-3.3.4-1] [MQTT311-3.3.4-1] so it is when nobody wants it", "", `
		a! id=a clean
		a> 30('t/0' {} "0") 32('t/1' 0001 {} "1") 34('t/2' 0002 {} "2")
		a< 40(0001 +) 50(0002 +)
		a> 62(0002)
		a< 70(0002)`},
	{"[MQTT-3.4.2.1] [MQTT-3.4.2-1] [MQTT-3.5.2-1] the answer says that nobody has subscribed, and the exchange goes on", "5", `
		a! id=a clean
		a> 32('t/1' 0001 {} "1") 34('t/2' 0002 {} "2") 33('t/3' 0003 {} "3") 33('t/3' 0004 {})
		a< 40(0001 10) 50(0002 10) 40(0003 10) 40(0004 10)
		a> 3c('t/2' 0002 {} "2")
		a< 50(0002)
		a> 62(0002)
		a< 70(0002)`},
	{"[MQTT-3.4.2.1] or that only the publisher itself has, who wants nothing of its own", "5", `
		a! id=a clean
		a> 82(0001 {} 't' 06)
		a< 90(0001 {} 02)
		a> 32('t' 0001 {} "1") 34('t' 0002 {} "2")
		a< 40(0001 10) 50(0002 10)
		b! id=b clean
		b> 32('t' 0001 {} "1")
		b< 40(0001)
		a< 32('t' ?1 {} "1")`},
	{"[MQTT-3.4.2.1] it does not where somebody has, who may be away, have QoS 0, or a shared subscription", "5", `
		s! id=s expiry=100
		s> 82(0001 {} 'zero' 00) 82(0002 {} 'one' 01) 82(0003 {} '$share/g/shared' 01)
		s< 90(0001 {} 00) 90(0002 {} 01) 90(0003 {} 01)
		s/
		a! id=a clean
		a> 32('zero' 0001 {} "0") 34('one' 0002 {} "1") 32('shared' 0003 {} "s")
		a& 40(0001) 50(0002) 40(0003)
		s! present id=s
		s< 32('one' ?1 {} "1") 32('shared' ?2 {} "s")`},
	{"[MQTT-3.4.2.1] once nobody has any more, it does", "5", `
		s! id=s clean
		s> 82(0001 {} 't' 01 '$share/g/u' 01)
		s< 90(0001 {} 0101)
		a! id=a clean
		a> 32('t' 0001 {} "1") 32('u' 0002 {} "1")
		a< 40(0001) 40(0002)
		s< 32('t' ?1 {} "1") 32('u' ?2 {} "1")
		s> a2(0002 {} 't' '$share/g/u')
		s< b0(0002 {} 0000)
		a> 32('t' 0001 {} "1") 32('u' 0002 {} "1")
		a< 40(0001 10) 40(0002 10)`},
	{"[MQTT-3.3.1-4] [MQTT311-3.3.1-4] there is no QoS 3", "", "a! id=a clean\na> 36('t' 0001 {} \"x\")\na# 81"},
	{"[MQTT-3.3.1-2] [MQTT311-3.3.1-2] nor DUP at QoS 0", "", "a! id=a clean\na> 38('t' {} \"x\")\na# 81"},
	{"[MQTT-3.3.1-3] [MQTT311-3.3.1-3] DUP of what comes is not that of what goes", "", subscriber + `
		a! id=a clean
		a> 3a('t/1' 0001 {} "x")
		a< 40(0001 +)
		s< 32('t/1' ?1 {} "x")`},
	{"[MQTT-3.3.2.1] [MQTT-4.7.3-1] [MQTT311-4.7.3-1] an empty topic", "", "a! id=a clean\na> 30('' {} \"x\")\na# 82"},
	{"[MQTT-3.3.2-8] [MQTT-3.3.2-12] [MQTT-3.3.4] an alias stands for the topic that it came with last", "5", subscriber + `
		a! id=a clean
		a> 30('t/1' {23 0001} "1") 30('' {23 0001} "2") 30('t/2' {23 0001} "3") 30('' {23 0001} "4") 30('t/3' {23 0040} "5") 30('' {23 0040} "6")
		s< 30('t/1' {} "1") 30('t/1' {} "2") 30('t/2' {} "3") 30('t/2' {} "4") 30('t/3' {} "5") 30('t/3' {} "6")`},
	{"[MQTT-3.3.4] [MQTT-3.3.2-12] also when that message was refused", "5", `
		a! id=a clean
		a> 32('secret/x' 0001 {23 0001} "1") 32('' 0002 {23 0001} "2")
		a< 40(0001 87 *) 40(0002 87 *)`},
	{"[MQTT-3.3.4] an alias that stands for nothing", "5", "a! id=a clean\na> 30('' {23 0001} \"x\")\na# 82"},
	{"[MQTT-3.3.2-8] [MQTT-3.3.2-9] the alias 0", "5", "a! id=a clean\na> 30('t' {23 0000} \"x\")\na# 94"},
	{"[MQTT-3.2.2-17] [MQTT-3.3.2-9] an alias that is too high", "5", "a! id=a clean\na> 30('t' {23 0041} \"x\")\na# 94"},
	{"[MQTT-3.3.2-7] aliases end with the connection, and what waits has its topic", "5", `
		s! id=s expiry=100
		s> 82(0001 {} 't/#' 01)
		s< 90(0001 {} 01)
		s/
		a! id=a expiry=100
		a> 33('t/1' 0001 {23 0001} "1")
		a< 40(0001 +)
		a/
		s! present id=s
		s< 32('t/1' ?1 {} "1")
		w! id=w clean
		w> 82(0001 {} '#' 00)
		w< 90(0001 {} 00) 31('t/1' {} "1")
		a! present id=a
		a> 30('' {23 0001} "x")
		a# 82`},
	{"[MQTT-3.3.4-6] a Subscription Identifier from a client", "5", subscriber + "a! id=a clean\na> 30('t/1' {0b 01} \"x\")\na# 82\ns~"},
	{"[MQTT-3.3.2-14] a Response Topic with a wildcard", "5", "a! id=a clean\na> 30('t' {08 'r/#'} \"x\")\na# 82"},
	{"[MQTT-3.3.2.3.2] a payload is not looked at, whatever its format claims", "5", subscriber + `
		a! id=a clean
		a> 30('t/1' {01 01} ff)
		s< 30('t/1' {01 01} ff)`},
	{"[MQTT-3.3.2.3.2] a format that there is not", "5", "a! id=a clean\na> 30('t' {01 02} \"x\")\na# 82"},
	{"[MQTT-4.3.2-5] [MQTT311-4.3.2-2] after PUBACK the identifier is that of a new message, DUP or not", "", subscriber + `
		a! id=a clean
		a> 3a('t/1' 0001 {} "1")
		a< 40(0001 +)
		a> 3a('t/1' 0001 {} "1")
		a< 40(0001 +)
		s< 32('t/1' ?1 {} "1") 32('t/1' ?2 {} "1")`},
	{"[MQTT-4.3.3-10] [MQTT311-4.3.3-2] [MQTT-4.3.3-12] until PUBREL a QoS 2 message is the same one, however often it comes, also on the next connection", "", subscriber + `
		a! id=a kept
		a> 34('t/1' 0001 {} "1")
		a< 50(0001 +)
		a> 3c('t/1' 0001 {} "1") 34('t/1' 0001 {} "1")
		a< 50(0001 +) 50(0001 +)
		a/
		a! present id=a kept
		a> 3c('t/1' 0001 {} "1")
		a< 50(0001 +)
		a> 62(0001)
		a< 70(0001)
		s< 34('t/1' ?1 {} "1")
		s> 50(?1)
		s< 62(?1)
		s> 70(?1)
		s~
		a> 34('t/1' 0001 {} "2")
		a< 50(0001 +)
		a> 62(0001)
		a< 70(0001)
		s< 34('t/1' ?2 {} "2")`},
	{"[MQTT-4.3.3-9] [MQTT-4.13.2] [MQTT-3.5.2-1] after a PUBREC that refuses the identifier is free", "5", subscriber + `
		a! id=a clean
		a> 34('secret/x' 0001 {} "1")
		a< 50(0001 87 *)
		a> 34('t/1' 0001 {} "2")
		a< 50(0001 +)
		a> 62(0001)
		a< 70(0001)
		s< 34('t/1' ?1 {} "2")`},
	{"[MQTT-4.3.3-11] [MQTT-3.7.2-1] PUBREL of an identifier that is not known", "5", `
		a! id=a clean
		a> 62(0009)
		a< 70(0009 92 *)
		a~`},
	{"[MQTT311-4.3.3-2] PUBREL of an identifier that is not known", "3", `
		a! id=a clean
		a> 62(0009)
		a< 70(0009)
		a~`},
	{"[MQTT-4.3.3-13] an exchange is completed although the message has expired", "5", `
		a! id=a clean
		a> 34('t' 0001 {02 00000001} "1")
		a< 50(0001 +)
		wait 5s
		a> 62(0001)
		a< 70(0001)`},
	{"[MQTT-4.13.2] [MQTT-3.4.2-1] [MQTT-5.4.2] a message that the client may not publish is refused, and kept from all", "5", `
		s! id=s clean
		s> 82(0001 {} '#' 00)
		s< 90(0001 {} 00)
		a! id=a clean
		a> 33('secret/x' 0001 {} "1") 31('secret/x' {} "2")
		a< 40(0001 87 *)
		a~
		s~`},
	{"[MQTT311-3.3.5-2] [MQTT311-5.4.2] a message that the client may not publish is acknowledged, and kept from all", "3", `
		s! id=s clean
		s> 82(0001 '#' 00)
		s< 90(0001 00)
		a! id=a clean
		a> 33('secret/x' 0001 "1") 31('secret/x' "2") 34('secret/x' 0002 "3")
		a< 40(0001) 50(0002)
		a> 62(0002)
		a< 70(0002)
		a~
		s~`},
	{"[MQTT-3.2.2-15] a packet that is larger than the broker takes is refused by its header", "5", "a! id=a clean\na> 30 ffffff7f 0001 \"t\"\na# 95"},
	{"[MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.5.2-2] [MQTT-3.5.2-3] [MQTT-3.9.2-1] [MQTT-3.9.2-2] [MQTT-3.11.2-1] [MQTT-3.11.2-2] answers to a client that takes hardly anything fit", "5", `
		a! id=a clean largest=8
		a> 32('secret/x' 0001 {} "1") 34('secret/x' 0002 {} "1") 82(0003 {} 'secret/x' 00) a2(0004 {} 'secret/x')
		a< 40(0001 87 *) 50(0002 87 *) 90(0003 00 87) b0(0004 00 11)`},
	{"[MQTT-3.6.2-2] [MQTT-3.6.2-3] [MQTT-3.7.2-2] [MQTT-3.7.2-3] so do those of QoS 2", "5", `
		a! id=a clean largest=5
		a> 62(0001) 50(0002)
		a< 70(0001 92) 62(0002 92)`},
	{"[MQTT-4.6.0-2] [MQTT311-4.6.0-2] [MQTT-4.6.0-3] [MQTT311-4.6.0-3] acknowledgements have the order of the messages", "", `
		a! id=a clean
		a> 32('a' 0009 {} "1") 34('a' 0003 {} "1") 32('b' 0007 {} "1") 34('a' 0001 {} "1") 32('a' 0005 {} "1")
		a< 40(0009 +) 50(0003 +) 40(0007 +) 50(0001 +) 40(0005 +)`},
	{"[MQTT-4.6.0-4] [MQTT311-4.6.0-4] PUBRELs have the order of the PUBRECs", "", subscriber + `
		a! id=a clean
		a> 34('t/1' 0001 {} "1") 34('t/2' 0002 {} "2") 34('t/3' 0003 {} "3")
		a< 50(0001 +) 50(0002 +) 50(0003 +)
		a> 62(0001) 62(0002) 62(0003)
		a< 70(0001) 70(0002) 70(0003)
		s< 34('t/1' ?1 {} "1") 34('t/2' ?2 {} "2") 34('t/3' ?3 {} "3")
		s> 50(?3) 50(?1) 50(?2)
		s< 62(?3) 62(?1) 62(?2)`},
	{"[MQTT-4.13.1] [MQTT311-4.8.0-1] [MQTT-4.13.1-1] what came before a bad packet counts, what comes after does not; others are not concerned", "", subscriber + `
		a! id=a clean
		a> 30('t/1' {} "1") 00() 30('t/2' {} "2")
		a# 81
		s< 30('t/1' {} "1")
		s~`},
	{"[MQTT-4.7.2] [MQTT311-4.7.2] topics of the server are not for clients", "", `
		s! id=s clean
		s> 82(0001 {} '$SYS/#' 00)
		s< 90(0001 {} 00)
		a! id=a clean
		a> 30('$SYS/x' {} "1")
		a~
		s~`},
}

func TestPublishStatements(t *testing.T) { play(t, publishExchanges) }

// Wildcards are not for topic names. [MQTT-3.3.2-2] [MQTT-4.7.0-1] [MQTT311-3.3.2-2] [MQTT311-4.7.1-1]
func TestWildcardsInTopics(t *testing.T) {
	for _, topic := range []string{"#", "+", "t/#", "t/+/x", "a#", "a+"} {
		play(t, each("QoS 0", "", subscriber+"a! id=a clean\na> 30('%s' {} \"x\")\na# 81\ns~", topic))
		play(t, each("QoS 1, retained", "", subscriber+"a! id=a clean\na> 33('%s' 0001 {} \"x\")\na# 81\ns~", topic))
	}
}

// Every alias up to the maximum is taken. [MQTT-3.3.2-12]
func TestEveryAlias(t *testing.T) {
	var script strings.Builder
	script.WriteString(subscriber + "a! id=a clean\n")
	for alias := 1; alias <= 64; alias++ {
		fmt.Fprintf(&script, "a> 30('t/%d' {23 %04x} \"x\")\ns< 30('t/%d' {} \"x\")\n", alias, alias, alias)
	}
	for alias := 1; alias <= 64; alias++ {
		fmt.Fprintf(&script, "a> 30('' {23 %04x} \"y\")\ns< 30('t/%d' {} \"y\")\n", alias, alias)
	}
	play(t, []exchange{{"aliases", "5", script.String()}})
}

// More messages at a time than the broker's Receive Maximum end the connection; those that are repeated count once.
// [MQTT-3.3.4-7] [MQTT-3.3.4-9]
func TestReceiveMaximum(t *testing.T) {
	var script strings.Builder
	script.WriteString("a! id=a clean\n")
	for id := 1; id <= 1024; id++ {
		fmt.Fprintf(&script, "a> 34('t' %04x {} \"x\")\na< 50(%04x +)\n", id, id)
	}
	script.WriteString("a> 3c('t' 0001 {} \"x\")\na< 50(0001 +)\na> 34('t' 0401 {} \"x\")\na# 93\n")
	play(t, []exchange{{"one too many", "5", script.String()}})
}

var ackExchanges = []exchange{
	{"[MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.2-3] [MQTT311-4.3.2-1] [MQTT-4.4.0-1] [MQTT311-4.4.0-1] [MQTT311-2.3.1-3] [MQTT-3.3.1-1] [MQTT311-3.3.1-1] a delivery at QoS 1 is open until PUBACK, and sent again with DUP and its identifier on the next connection, and only then", "", `
		s! id=s kept
		s> 82(0001 {} 't' 01)
		s< 90(0001 {} 01)
		a! id=a clean
		a> 32('t' 0001 {} "1")
		a< 40(0001 +)
		s< 32('t' ?1 {} "1")
		# An acknowledgement of another kind, and another identifier, end nothing.
		s> 70(?1)
		wait 1h
		s~
		s/
		s! present id=s kept
		s< 3a('t' ?1 {} "1")
		s> 40(?1)
		s/
		s! present id=s kept
		s~`},
	{"[MQTT-4.3.3-1] [MQTT-4.3.3-2] [MQTT-4.3.3-3] [MQTT-4.3.3-4] [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT311-4.3.3-1] [MQTT-4.4.0-1] [MQTT311-4.4.0-1] one at QoS 2 until PUBCOMP, and after PUBREL only that is sent again", "", `
		s! id=s kept
		s> 82(0001 {} 't' 02)
		s< 90(0001 {} 02)
		a! id=a clean
		a> 34('t' 0001 {} "1")
		a< 50(0001 +)
		a> 62(0001)
		a< 70(0001)
		s< 34('t' ?1 {} "1")
		s> 40(?1)
		s/
		s! present id=s kept
		s< 3c('t' ?1 {} "1")
		s> 50(?1)
		s< 62(?1)
		s> 50(?1)
		s< 62(?1)
		s/
		s! present id=s kept
		s< 62(?1)
		s> 70(?1)
		s/
		s! present id=s kept
		s~`},
	{"[MQTT-4.3.3-4] [MQTT-3.6.2-1] PUBREC of an identifier that is not known", "5", "a! id=a clean\na> 50(0009)\na< 62(0009 92 *)\na~"},
	{"[MQTT-4.13.2] [MQTT311-2.3.1] acknowledgements of what is not open do no harm", "", "a! id=a clean\na> 40(0009) 70(0008)\na~"},
	{"[MQTT-4.4.0-2] what the client refuses is done with, for this client", "5", `
		s! id=s expiry=100
		s> 82(0001 {} 't' 02)
		s< 90(0001 {} 02)
		r! id=r clean
		r> 82(0001 {} 't' 02)
		r< 90(0001 {} 02)
		a! id=a clean
		a> 32('t' 0001 {} "1") 34('t' 0002 {} "2")
		a< 40(0001 +) 50(0002 +)
		a> 62(0002)
		a< 70(0002)
		s< 32('t' ?1 {} "1") 34('t' ?2 {} "2")
		s> 40(?1 80) 50(?2 87)
		s~
		s/
		s! present id=s
		s~
		r< 32('t' ?3 {} "1") 34('t' ?4 {} "2")`},
	{"[MQTT-4.3.3] [MQTT-4.9.0-2] PUBCOMP ends an exchange whatever its code", "5", `
		s! id=s expiry=100 window=1
		s> 82(0001 {} 't' 02)
		s< 90(0001 {} 02)
		a! id=a clean
		a> 34('t' 0001 {} "1") 34('t' 0002 {} "2")
		a< 50(0001 +) 50(0002 +)
		a> 62(0001) 62(0002)
		a< 70(0001) 70(0002)
		s< 34('t' ?1 {} "1")
		s> 50(?1)
		s< 62(?1)
		s> 70(?1 92)
		s< 34('t' ?2 {} "2")`},
	{"[MQTT-4.3.3-7] [MQTT-3.3.2-5] a message that has been sent is sent again although it has expired", "5", `
		s! id=s expiry=100
		s> 82(0001 {} 't' 02)
		s< 90(0001 {} 02)
		a! id=a clean
		a> 32('t' 0001 {02 00000002} "1") 34('t' 0002 {02 00000002} "2")
		a< 40(0001 +) 50(0002 +)
		a> 62(0002)
		a< 70(0002)
		s< 32('t' ?1 {02 00000002} "1") 34('t' ?2 {02 00000002} "2")
		wait 5s
		s/
		s! present id=s expiry=100
		s< 3a('t' ?1 {*} "1") 3c('t' ?2 {*} "2")
		s> 50(?2)
		s< 62(?2)
		wait 5s
		s/
		s! present id=s
		s< 62(?2) 3a('t' ?1 {*} "1")`},
}

func TestAcknowledgementStatements(t *testing.T) { play(t, ackExchanges) }
