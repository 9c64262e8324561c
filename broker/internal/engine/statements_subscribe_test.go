package engine_test

import (
	"fmt"
	"strings"
	"testing"
)

var subscribeExchanges = []exchange{
	{"[MQTT-3.8.3-2] [MQTT311-3.8.3-3] a SUBSCRIBE without a filter", "", "a! id=a clean\na> 82(0001 {})\na# 82"},
	{"[MQTT-3.8.3.1] [MQTT311-3.8.3-4] QoS 3", "", "a! id=a clean\na> 82(0001 {} 't' 03)\na# 82"},
	{"[MQTT-3.8.3.1] Retain Handling 3", "5", "a! id=a clean\na> 82(0001 {} 't' 30)\na# 82"},
	{"[MQTT-3.8.3-5] a reserved bit", "5", "a! id=a clean\na> 82(0001 {} 't' 40)\na# 81"},
	{"[MQTT-3.8.3-5] the other one", "5", "a! id=a clean\na> 82(0001 {} 't' 80)\na# 81"},
	{"[MQTT-3.8.2.1.2] the Subscription Identifier 0", "5", "a! id=a clean\na> 82(0001 {0b 00} 't' 00)\na# 82"},
	{"[MQTT-3.8.2.1.2] two of them", "5", "a! id=a clean\na> 82(0001 {0b 01 0b 02} 't' 00)\na# 82"},
	{"[MQTT-3.8.2.1.2] [MQTT-3.3.4-3] the largest one is for every filter, until a SUBSCRIBE without one", "5", `
		a! id=a clean
		a> 82(0001 {0b ffffff7f} 't' 00 'u' 00)
		a< 90(0001 {} 00 00)
		b! id=b clean
		b> 30('t' {} "1") 30('u' {} "2")
		a< 30('t' {0b ffffff7f} "1") 30('u' {0b ffffff7f} "2")
		a> 82(0002 {} 't' 00)
		a< 90(0002 {} 00)
		b> 30('t' {} "3") 30('u' {} "4")
		a< 30('t' {} "3") 30('u' {0b ffffff7f} "4")`},
	{"[MQTT-3.8.3-4] No Local for a shared subscription", "5", "a! id=a clean\na> 82(0001 {} '$share/g/t' 04)\na# 82"},
	{"[MQTT-3.8.4-1] [MQTT-3.8.4-2] [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2] [MQTT-5.4.2] SUBACK has a code for each filter, in their order", "5", `
		a! id=a clean
		a> 82(0005 {} 't/0' 00 't/1' 01 'secret/x' 01 't/2' 02)
		a< 90(0005 {} 00 01 87 02)
		a> 82(0006 {} 'secret/x' 01)
		a< 90(0006 {} 87)
		a> 30('t/0' {} "0") 30('secret/x' {} "1")
		a< 30('t/0' {} "0")
		a~`},
	{"[MQTT311-3.8.4-1] [MQTT311-3.8.4-2] [MQTT311-3.8.4-4] [MQTT311-3.8.4-5] [MQTT311-3.9.3-1] [MQTT311-3.9.3-2] [MQTT311-5.4.2] SUBACK has a code for each filter, in their order", "3", `
		a! id=a clean
		a> 82(0005 't/0' 00 't/1' 01 'secret/x' 01 't/2' 02)
		a< 90(0005 00 01 80 02)
		a> 82(0006 'secret/x' 01)
		a< 90(0006 80)
		a> 30('t/0' "0") 30('secret/x' "1")
		a< 30('t/0' "0")
		a~`},
	{"[MQTT-3.8.4] [MQTT311-3.8.4] messages come from the SUBSCRIBE on", "", `
		a! id=a clean
		a> 82(0001 {} 't' 00) 30('t' {} "1")
		a& 90(0001 {} 00) 30('t' {} "1")`},
	{"[MQTT-3.8.4-3] [MQTT311-3.8.4-3] subscribing again replaces the subscription", "", `
		a! id=a clean
		a> 82(0001 {} 't' 00)
		a< 90(0001 {} 00)
		a> 82(0002 {} 't' 01)
		a< 90(0002 {} 01)
		b! id=b clean
		b> 34('t' 0001 {} "1")
		b< 50(0001 +)
		b> 62(0001)
		b< 70(0001)
		a< 32('t' ?1 {} "1")
		a> 40(?1) a2(0003 {} 't')
		a< b0(0003 {} *)
		b> 30('t' {} "2")
		a~`},
	{"[MQTT-3.8.4-5] [MQTT311-3.8.4-4] [MQTT-3.8.4-4] the same filter twice in a packet is as good as in two: the second one counts", "", `
		a! id=a clean
		a> 31('t' {} "r") 82(0001 {} 't' 00 't' 01)
		a< 90(0001 {} 00 01) 31('t' {} "r")
		a> 32('t' 0001 {} "x")
		a& 40(0001 +) 32('t' ?1 {} "x")`},
	{"[MQTT-3.10.3-2] [MQTT311-3.10.3-2] an UNSUBSCRIBE without a filter", "", "a! id=a clean\na> a2(0001 {})\na# 82"},
	{"[MQTT-3.10.4-1] [MQTT311-3.10.4-1] [MQTT-3.10.4-5] filters are compared, not matched", "", `
		a! id=a clean
		a> 82(0001 {} 't/1' 00) a2(0002 {} 't/#') a2(0003 {} 't/+') a2(0004 {} 't')
		a< 90(0001 {} 00) b0(0002 {} *) b0(0003 {} *) b0(0004 {} *)
		a> 30('t/1' {} "x")
		a< 30('t/1' {} "x")`},
	{"[MQTT-3.10.4-2] [MQTT311-3.10.4-2] [MQTT-3.10.4-3] [MQTT311-3.10.4-3] after UNSUBSCRIBE nothing new comes, and what has begun is completed, on the next connection as well", "", `
		s! id=s kept
		s> 82(0001 {} 't' 02)
		s< 90(0001 {} 02)
		a! id=a clean
		a> 34('t' 0001 {} "1") 32('t' 0002 {} "2")
		a< 50(0001 +) 40(0002 +)
		a> 62(0001)
		a< 70(0001)
		s& 34('t' ?1 {} "1") 32('t' ?2 {} "2")
		s> 50(?1)
		s< 62(?1)
		s> a2(0002 {} 't')
		s< b0(0002 {} *)
		a> 32('t' 0003 {} "3")
		a< 40(0003 +)
		s~
		s/
		s! present id=s kept
		s& 62(?1) 3a('t' ?2 {} "2")
		s> 70(?1) 40(?2)
		s~`},
	{"[MQTT-3.10.4-4] [MQTT-3.10.4-5] [MQTT-3.10.4-6] [MQTT-3.11.3-1] [MQTT-3.11.3-2] UNSUBACK has a code for each filter, in their order", "5", `
		a! id=a clean
		a> 82(0001 {} 't/1' 00 't/2' 00) a2(0002 {} 't/0' 't/1' 't/2' 't/1')
		a< 90(0001 {} 00 00) b0(0002 {} 11 00 00 11)`},
	{"[MQTT311-3.10.4-4] [MQTT311-3.10.4-5] [MQTT311-3.10.4-6] [MQTT311-3.11.3] UNSUBACK has no payload, and comes if there was no such subscription", "3", `
		a! id=a clean
		a> 82(0001 't/1' 00) a2(0002 't/0' 't/1')
		a< 90(0001 00) b0(0002)
		a> 30('t/1' "x")
		a~`},
}

func TestSubscribeStatements(t *testing.T) { play(t, subscribeExchanges) }

// In MQTT 3.1.1 all bits except those of the QoS are reserved. [MQTT311-3.8.3-4]
func TestReservedOptions(t *testing.T) {
	play(t, each("bit", "3", "a! id=a clean\na> 82(0001 't' %s)\na.", "04", "08", "10", "20", "40", "80"))
}

// Delivery is at the lower one of the QoS that was published and the one that was granted. [MQTT-3.8.4-8] [MQTT311-3.8.4-6]
// [MQTT-4.3.1-1] [MQTT311-4.3.1-1]
func TestLowerQoS(t *testing.T) {
	publish := []string{
		"b> 30('t' {} \"x\")\n",
		"b> 32('t' 0001 {} \"x\")\nb< 40(0001 +)\n",
		"b> 34('t' 0001 {} \"x\")\nb< 50(0001 +)\nb> 62(0001)\nb< 70(0001)\n",
	}
	deliver := []string{"a< 30('t' {} \"x\")", "a< 32('t' ?1 {} \"x\")", "a< 34('t' ?1 {} \"x\")"}
	for granted := range 3 {
		for published := range 3 {
			play(t, []exchange{{fmt.Sprintf("published at %d, granted %d", published, granted), "", fmt.Sprintf(
				"a! id=a clean\na> 82(0001 {} 't' %02x)\na< 90(0001 {} %02[1]x)\nb! id=b clean\n%s%s",
				granted, publish[published], deliver[min(granted, published)])}})
		}
	}
}

var retainExchanges = []exchange{
	{"[MQTT-3.3.1-5] [MQTT311-3.3.1-5] [MQTT-3.3.1-12] [MQTT311-3.3.1-9] [MQTT-3.3.1-9] [MQTT311-3.3.1-6] [MQTT311-3.3.1-8] [MQTT-3.3.1.3] RETAIN replaces what was retained; subscribers of the time get it without RETAIN, later ones with it, at the lower QoS", "", subscriber + `
		a! id=a clean
		a> 31('t/1' {} "old") 33('t/1' 0001 {} "new")
		a< 40(0001 +)
		s< 30('t/1' {} "old") 32('t/1' ?1 {} "new")
		b! id=b clean
		b> 82(0001 {} 't/+' 02)
		b< 90(0001 {} 02) 33('t/1' ?2 {} "new")
		b> 82(0002 {} 't/1' 00)
		b< 90(0002 {} 00) 31('t/1' {} "new")`},
	{"[MQTT-3.3.1-6] [MQTT-3.3.1-7] [MQTT311-3.3.1-10] [MQTT311-3.3.1-11] an empty message removes what was retained, and is delivered", "", subscriber + `
		a! id=a clean
		a> 31('t/1' {} "old") 31('t/1' {})
		s< 30('t/1' {} "old") 30('t/1' {})
		b! id=b clean
		b> 82(0001 {} 't/1' 00)
		b< 90(0001 {} 00)
		b~`},
	{"[MQTT-3.3.1-8] [MQTT311-3.3.1-12] without RETAIN nothing is retained or removed", "", `
		a! id=a clean
		a> 31('t/1' {} "old") 30('t/1' {} "new") 30('t/1' {})
		b! id=b clean
		b> 82(0001 {} 't/1' 00)
		b< 90(0001 {} 00) 31('t/1' {} "old")`},
	{"[MQTT-3.3.1.3] [MQTT311-3.3.1-7] a message at QoS 0 replaces one at QoS 1", "", `
		a! id=a clean
		a> 33('t/1' 0001 {} "a") 31('t/1' {} "b")
		a< 40(0001 +)
		b! id=b clean
		b> 82(0001 {} 't/1' 01)
		b< 90(0001 {} 01) 31('t/1' {} "b")`},
	{"[MQTT-3.3.1-9] [MQTT311-3.3.1-6] [MQTT-3.8.4-4] [MQTT311-3.8.4-3] retained messages come with each SUBSCRIBE, all that match, with its identifier", "", `
		a! id=a clean
		a> 31('t/1' {} "1") 31('t/2' {} "2") 31('u' {} "3")
		b! id=b clean
		b> 82(0001 {} 't/#' 00)
		b< 90(0001 {} 00)
		b& 31('t/1' {} "1") 31('t/2' {} "2")
		b> 82(0002 {} 't/#' 00)
		b< 90(0002 {} 00)
		b& 31('t/1' {} "1") 31('t/2' {} "2")`},
	{"[MQTT-3.3.1-9] [MQTT-3.3.4-3] with the Subscription Identifier", "5", `
		a! id=a clean
		a> 31('t/1' {26 'k' 'v'} "1")
		b! id=b clean
		b> 82(0001 {0b 07} 't/#' 00)
		b< 90(0001 {} 00) 31('t/1' {0b 07 26 'k' 'v'} "1")`},
	{"[MQTT-3.3.1-10] with Retain Handling 1 only if the subscription is new", "5", `
		a! id=a clean
		a> 31('t/1' {} "1")
		b! id=b expiry=100
		b> 82(0001 {} 't/1' 10)
		b< 90(0001 {} 00) 31('t/1' {} "1")
		b> 82(0002 {} 't/1' 10)
		b< 90(0002 {} 00)
		b~
		b/
		b! present id=b expiry=100
		b> 82(0001 {} 't/1' 10)
		b< 90(0001 {} 00)
		b~
		b> a2(0002 {} 't/1') 82(0003 {} 't/1' 10)
		b< b0(0002 {} 00) 90(0003 {} 00) 31('t/1' {} "1")`},
	{"[MQTT-3.3.1-11] with Retain Handling 2 never", "5", `
		a! id=a clean
		a> 31('t/1' {} "1")
		b! id=b clean
		b> 82(0001 {} 't/1' 20)
		b< 90(0001 {} 00)
		b~`},
	{"[MQTT-3.3.1-13] [MQTT-3.3.1.3] with Retain As Published, RETAIN is as published, also for what waited, and always set for what was retained", "5", `
		b! id=b expiry=100
		b> 82(0001 {} 't/1' 09)
		b< 90(0001 {} 01)
		b/
		a! id=a clean
		a> 33('t/1' 0001 {} "1") 32('t/1' 0002 {} "2") 31('t/2' {} "3")
		a< 40(0001 +) 40(0002 +)
		b! present id=b
		b< 33('t/1' ?1 {} "1") 32('t/1' ?2 {} "2")
		b> 40(?1) 40(?2) 82(0002 {} 't/2' 00)
		b< 90(0002 {} 00) 31('t/2' {} "3")
		a> 31('t/1' {} "4")
		b< 31('t/1' {} "4")`},
	{"[MQTT-3.8.4] [MQTT-4.8.2a] a shared subscription brings no retained messages", "", `
		a! id=a clean
		a> 31('t/1' {} "1")
		b! id=b clean
		b> 82(0001 {} '$share/g/t/1' 00)
		b< 90(0001 {} 00)
		b~`},
	{"[MQTT-3.3.1.3] a retained message has the rest of its expiry, and ends with it", "5", `
		a! id=a clean
		a> 31('t/1' {02 0000000a} "1")
		wait 4s
		b! id=b clean
		b> 82(0001 {} 't/1' 00)
		b< 90(0001 {} 00) 31('t/1' {02 00000006} "1")
		wait 7s
		b> 82(0002 {} 't/1' 00)
		b< 90(0002 {} 00)
		b~`},
	{"[MQTT-4.1] [MQTT311-3.1.2-7] they do not come with a session that goes on", "", `
		a! id=a kept
		a> 82(0001 {} 't/1' 00) 31('t/1' {} "1")
		a< 90(0001 {} 00) 30('t/1' {} "1")
		a/
		a! present id=a kept
		a~`},
}

func TestRetainStatements(t *testing.T) { play(t, retainExchanges) }

var deliveryExchanges = []exchange{
	{"[MQTT-3.3.2-3] [MQTT311-3.3.2-3] only what matches is delivered, under its topic", "", subscriber + `
		a! id=a clean
		a> 30('u' {} "1") 30('t' {} "2") 30('t/1/2' {} "3") 30('T/1' {} "4")
		s< 30('t' {} "2") 30('t/1/2' {} "3")
		s~`},
	{"[MQTT-3.3.4-2] [MQTT311-3.3.5-1] one copy for all subscriptions that match, at the highest QoS", "", `
		s! id=s kept
		s> 82(0001 {} 't/+' 00 't/1' 02 't/#' 01)
		s< 90(0001 {} 00 02 01)
		a! id=a clean
		a> 34('t/1' 0001 {} "1")
		a< 50(0001 +)
		a> 62(0001)
		a< 70(0001)
		s< 34('t/1' ?1 {} "1")
		s~
		s> 50(?1)
		s< 62(?1)
		s> 70(?1)
		s/
		a> 34('t/1' 0002 {} "2")
		a< 50(0002 +)
		a> 62(0002)
		a< 70(0002)
		s! present id=s kept
		s< 34('t/1' ?2 {} "2")
		s~`},
	{"[MQTT-3.3.4-3] [MQTT-3.3.4-4] [MQTT-3.3.4-5] with the identifiers of all of them, and of no other client", "5", `
		s! id=s clean
		s> 82(0001 {0b 01} 't/+' 00) 82(0002 {0b 02} 't/1' 00) 82(0003 {} 't/#' 00)
		s< 90(0001 {} 00) 90(0002 {} 00) 90(0003 {} 00)
		r! id=r clean
		r> 82(0001 {0b 09} 't/1' 00)
		r< 90(0001 {} 00)
		a! id=a clean
		a> 30('t/1' {} "1")
		s& 30('t/1' {0b 01 0b 02} "1")
		r< 30('t/1' {0b 09} "1")
		s~`},
	{"[MQTT-3.8.3-3] No Local keeps a client's own messages away, from that subscription", "5", `
		a! id=a expiry=100
		a> 82(0001 {} 't/#' 05)
		a< 90(0001 {} 01)
		b! id=b clean
		a> 32('t/1' 0001 {} "1")
		a< 40(0001 +)
		a~
		b> 30('t/1' {} "2")
		a< 30('t/1' {} "2")
		a/
		a! present id=a
		a> 32('t/1' 0001 {} "3")
		a< 40(0001 +)
		a~
		a> 82(0002 {} 't/1' 00)
		a< 90(0002 {} 00)
		a> 32('t/1' 0001 {} "4")
		a& 40(0001 +) 30('t/1' {} "4")`},
	{"[MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20] properties come as they were published: live", "5", subscriber + `
		a! id=a clean
		a> 30('t/1' {` + properties + `} "x")
		s< 30('t/1' {` + properties + `} "x")`},
	{"[MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20] retained, and from the queue", "5", `
		s! id=s expiry=100
		s> 82(0001 {} 't/1' 01)
		s< 90(0001 {} 01)
		s/
		a! id=a clean
		a> 33('t/1' 0001 {` + properties + `} "x")
		a< 40(0001 +)
		s! present id=s
		s< 32('t/1' ?1 {` + properties + `} "x")
		a> 82(0002 {} 't/1' 00)
		a< 90(0002 {} 00) 31('t/1' {` + properties + `} "x")`},
	{"[MQTT-3.3.2-5] what has expired before its turn is not delivered, to each on its own", "5", `
		s! id=s expiry=100
		s> 82(0001 {} 't' 01)
		s< 90(0001 {} 01)
		s/
		r! id=r clean
		r> 82(0001 {} 't' 01)
		r< 90(0001 {} 01)
		a! id=a clean
		a> 32('t' 0001 {02 00000002} "1") 32('t' 0002 {} "2")
		a< 40(0001 +) 40(0002 +)
		r< 32('t' ?1 {02 00000002} "1") 32('t' ?2 {} "2")
		wait 3s
		s! present id=s
		s< 32('t' ?3 {} "2")`},
	{"[MQTT-3.3.2-6] what has not is sent with the rest of its time", "5", `
		s! id=s expiry=100
		s> 82(0001 {} 't' 01)
		s< 90(0001 {} 01)
		s/
		a! id=a clean
		a> 32('t' 0001 {02 0000000a} "1")
		a< 40(0001 +)
		wait 4s
		s! present id=s
		s< 32('t' ?1 {02 00000006} "1")`},
	{"[MQTT-3.1.2-24] [MQTT-3.1.2-25] what is too large for a client is left out, and everything else comes", "5", `
		s! id=s clean largest=20
		s> 82(0001 {} 't' 01)
		s< 90(0001 {} 01)
		a! id=a clean
		a> 32('t' 0001 {} "0123456789ab") 32('t' 0002 {} "0123456789abc") 32('t' 0003 {} "x")
		a< 40(0001 +) 40(0002 *) 40(0003 +)
		s< 32('t' ?1 {} "0123456789ab") 32('t' ?2 {} "x")`},
	{"[MQTT-3.1.2-24] Subscription Identifiers and properties count", "5", `
		s! id=s clean largest=20
		s> 82(0001 {0b 07} 't' 01)
		s< 90(0001 {} 01)
		a! id=a clean
		a> 32('t' 0001 {} "0123456789") 32('t' 0002 {} "0123456789a") 32('t' 0003 {01 01} "01234567") 32('t' 0004 {01 01} "012345678")
		a< 40(0001 +) 40(0002 *) 40(0003 +) 40(0004 *)
		s< 32('t' ?1 {0b 07} "0123456789") 32('t' ?2 {0b 07 01 01} "01234567")
		s~`},
	{"[MQTT-3.1.2-24] [MQTT-3.1.2-25] also of what has waited", "5", `
		s! id=s expiry=100
		s> 82(0001 {} 't' 01)
		s< 90(0001 {} 01)
		s/
		a! id=a clean
		a> 32('t' 0001 {} "0123456789abcdef") 32('t' 0002 {} "x")
		a< 40(0001 +) 40(0002 +)
		s! present id=s largest=20 window=1
		s< 32('t' ?2 {} "x")`},
	{"[MQTT-3.1.2-26] [MQTT-3.3.2-11] [MQTT-3.3.2-7] a client that takes an alias gets it, first with its topic, on each connection", "5", `
		s! id=s expiry=100 aliases=1
		s> 82(0001 {} 'topic/#' 01)
		s< 90(0001 {} 01)
		a! id=a clean
		a> 30('topic/1' {} "1") 30('topic/1' {26 'k' 'v'} "2") 32('topic/1' 0001 {} "3")
		a< 40(0001 +)
		s< 30('topic/1' {23 0001} "1") 30('' {23 0001 26 'k' 'v'} "2") 32('' ?3 {23 0001} "3")
		a> 30('topic/2' {} "4") 30('topic/2' {} "5") 30('topic/1' {} "6")
		s< 30('topic/2' {23 0001} "4") 30('' {23 0001} "5") 30('topic/1' {23 0001} "6")
		s/
		s! present id=s aliases=1
		s< 3a('topic/1' ?3 {23 0001} "3")
		a> 30('topic/1' {} "7")
		s< 30('' {23 0001} "7")`},
	{"[MQTT-3.1.2-24] [MQTT-3.1.2-26] an alias does not make a packet too large, nor stand for one that was left out", "5", `
		s! id=s clean aliases=2 largest=24
		s> 82(0001 {} 'topic/#' 00)
		s< 90(0001 {} 00)
		a! id=a clean
		a> 30('topic/1' {} "0123456789abc") 30('topic/1' {} "0123456789ab") 30('topic/1' {} "x") 30('topic/1' {} "y")
		s< 30('topic/1' {} "0123456789ab")
		s< 30('topic/1' {23 0001} "x") 30('' {23 0001} "y")`},
	{"[MQTT-3.1.2-27] [MQTT-3.3.2-11] no alias goes to a client that takes none", "5", subscriber + `
		a! id=a clean
		a> 30('t/1' {} "1") 30('t/1' {} "2")
		s< 30('t/1' {} "1") 30('t/1' {} "2")`},
	{"[MQTT-3.1.2-29] [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.14.2-3] [MQTT-3.14.2-4] nobody who wants no Reason String gets one, and User Properties of messages come all the same", "5", `
		a! id=a clean noproblems
		a> 32('secret/x' 0001 {} "1") 34('secret/x' 0002 {} "1") 82(0003 {} 'secret/x' 00 't' 00) a2(0004 {} 'u')
		a< 40(0001 87) 50(0002 87) 90(0003 00 87 00) b0(0004 00 11)
		a> 30('t' {26 'k' 'v'} "1")
		a< 30('t' {26 'k' 'v'} "1")`},
	{"[MQTT-3.3.4-9] [MQTT-4.9.0-1] no more than Receive Maximum are open, also when they are sent again", "5", `
		s! id=s expiry=100
		s> 82(0001 {} 't' 01)
		s< 90(0001 {} 01)
		a! id=a clean
		a> 32('t' 0001 {} "1") 32('t' 0002 {} "2") 32('t' 0003 {} "3")
		a< 40(0001 +) 40(0002 +) 40(0003 +)
		s< 32('t' ?1 {} "1") 32('t' ?2 {} "2") 32('t' ?3 {} "3")
		s/
		s! present id=s window=2
		s< 3a('t' ?1 {} "1") 3a('t' ?2 {} "2")
		s~
		s> 40(?1)
		s< 3a('t' ?3 {} "3")`},
	{"[MQTT-4.6.0-1] [MQTT311-4.6.0-1] [MQTT-4.6.0-5] [MQTT-4.6.0-6] [MQTT311-4.6.0-5] [MQTT311-4.6.0-6] what is sent again comes first, then what has waited, then what is new, each in its order", "", `
		s! id=s kept
		s> 82(0001 {} 't' 01)
		s< 90(0001 {} 01)
		a! id=a clean
		a> 32('t' 0001 {} "1") 32('t' 0002 {} "2")
		a< 40(0001 +) 40(0002 +)
		s< 32('t' ?1 {} "1") 32('t' ?2 {} "2")
		s/
		a> 32('t' 0003 {} "3") 32('t' 0004 {} "4")
		a< 40(0003 +) 40(0004 +)
		s! present id=s kept
		a> 32('t' 0005 {} "5")
		a< 40(0005 +)
		s< 3a('t' ?1 {} "1") 3a('t' ?2 {} "2") 32('t' ?3 {} "3") 32('t' ?4 {} "4") 32('t' ?5 {} "5")`},
}

const properties = "01 01 03 'text/plain' 08 'r' 09 '\\xff\\x00' 26 'z' '1' 26 'a' '2' 26 'z' '1'"

func TestDeliveryStatements(t *testing.T) { play(t, deliveryExchanges) }

// Clients of both versions, of which those with a capital letter speak MQTT 3.1.1.
var versionExchanges = []exchange{
	{"[MQTT-3.3.2.3] a message goes to a client of MQTT 3.1.1 without its properties", "5", `
		S! id=s clean
		S> 82(0001 {} 't' 01)
		S< 90(0001 {} 01)
		a! id=a clean
		a> 32('t' 0001 {` + properties + `} "x")
		a< 40(0001 +)
		S< 32('t' ?1 {} "x")`},
	{"[MQTT-3.3.2.3] [MQTT-3.3.2-5] and not at all when its time is over", "5", `
		S! id=s kept
		S> 82(0001 {} 't' 01)
		S< 90(0001 {} 01)
		S/
		a! id=a clean
		a> 32('t' 0001 {02 00000002} "1") 32('t' 0002 {} "2")
		a< 40(0001 +) 40(0002 +)
		wait 3s
		S! present id=s kept
		S< 32('t' ?1 {} "2")`},
	{"[MQTT-3.1.2-5] [MQTT311-3.1.2-4] a session goes on in the other version: open deliveries, subscriptions, and what has come", "", `
		s! id=s kept
		s> 82(0001 {} 't' 02) 34('u' 0009 {} "y")
		s& 90(0001 {} 02) 50(0009 +)
		a! id=a clean
		a> 32('t' 0001 {} "1") 34('t' 0002 {} "2")
		a< 40(0001 +) 50(0002 +)
		a> 62(0002)
		a< 70(0002)
		s& 32('t' ?1 {} "1") 34('t' ?2 {} "2")
		s> 50(?2)
		s< 62(?2)
		s/
		S! present id=s kept
		S& 3a('t' ?1 {} "1") 62(?2)
		S> 34('u' 0009 {} "y")
		S< 50(0009 +)
		S> 40(?1) 70(?2) 62(0009)
		S< 70(0009)
		a> 32('t' 0001 {} "3")
		a< 40(0001 +)
		S< 32('t' ?3 {} "3")`},
	{"[MQTT-3.1.4-3] [MQTT311-3.1.4-2] a connection of the other version takes over", "", `
		a! id=c kept
		B! present id=c kept
		a# 8e
		B~
		a! present id=c kept
		B# 8e
		a~`},
	{"[MQTT-3.3.4-3] a Subscription Identifier is not for MQTT 3.1.1, and what is retained by a client of it has no properties", "5", `
		A! id=a clean
		A> 31('t' {} "x")
		s! id=s clean
		s> 82(0001 {0b 05} 't' 00)
		s< 90(0001 {} 00) 31('t' {0b 05} "x")`},
}

func TestBetweenVersions(t *testing.T) { play(t, versionExchanges) }

var sharedExchanges = []exchange{
	{"[MQTT-4.8.2a] each group gets a message once, and ordinary subscribers, too", "", `
		a! id=a clean
		a> 82(0001 {} '$share/g/t' 00)
		a< 90(0001 {} 00)
		b! id=b clean
		b> 82(0001 {} '$share/h/t' 00 't' 00)
		b< 90(0001 {} 00 00)
		c! id=c clean
		c> 82(0001 {} 'u' 00)
		c< 90(0001 {} 00)
		p! id=p clean
		p> 30('t' {} "1")
		a< 30('t' {} "1")
		b< 30('t' {} "1") 30('t' {} "1")
		a~
		b~
		c~`},
	{"[MQTT-4.8.2-3] at the QoS that its member was granted", "", `
		a! id=a clean
		a> 82(0001 {} '$share/g/t' 01)
		a< 90(0001 {} 01)
		p! id=p clean
		p> 34('t' 0001 {} "1")
		p< 50(0001 +)
		p> 62(0001)
		p< 70(0001)
		a< 32('t' ?1 {} "1")`},
	{"[MQTT-4.8.2-4] what has begun at QoS 2 is completed with the same member", "", `
		a! id=a kept
		a> 82(0001 {} '$share/g/t' 02)
		a< 90(0001 {} 02)
		p! id=p clean
		p> 34('t' 0001 {} "1")
		p< 50(0001 +)
		p> 62(0001)
		p< 70(0001)
		a< 34('t' ?1 {} "1")
		b! id=b clean
		b> 82(0001 {} '$share/g/t' 02)
		b< 90(0001 {} 02)
		a/
		b~
		a! present id=a kept
		a< 3c('t' ?1 {} "1")
		b~
		a> 50(?1)
		a< 62(?1)
		a/
		a! present id=a kept
		a< 62(?1)
		a> 70(?1)
		b~`},
	{"[MQTT-4.8.2-5] and with nobody, if that member's session ends; what it did not acknowledge at QoS 1 goes to another one", "5", `
		a! id=a expiry=10
		a> 82(0001 {} '$share/g/t' 02)
		a< 90(0001 {} 02)
		p! id=p clean
		p> 34('t' 0001 {} "2") 32('t' 0002 {} "1")
		p< 50(0001 +) 40(0002 +)
		p> 62(0001)
		p< 70(0001)
		a& 34('t' ?1 {} "2") 32('t' ?2 {} "1")
		b! id=b clean
		b> 82(0001 {} '$share/g/t' 02)
		b< 90(0001 {} 02)
		a/
		b~
		wait 11s
		b< 32('t' ?3 {} "1")
		b~`},
	{"[MQTT-4.8.2-6] what a member refuses is tried with nobody else", "5", `
		a! id=a clean
		a> 82(0001 {} '$share/g/t' 02)
		a< 90(0001 {} 02)
		p! id=p clean
		p> 32('t' 0001 {} "1") 34('t' 0002 {} "2")
		p< 40(0001 +) 50(0002 +)
		p> 62(0002)
		p< 70(0002)
		a& 32('t' ?1 {} "1") 34('t' ?2 {} "2")
		b! id=b clean
		b> 82(0001 {} '$share/g/t' 02)
		b< 90(0001 {} 02)
		a> 40(?1 80) 50(?2 80)
		a~
		a/
		wait 1h
		b~`},
	{"[MQTT-4.8.2b] subscribing twice is no second membership, and with the last member the group ends", "", `
		a! id=a clean
		a> 82(0001 {} '$share/g/t' 01) 82(0002 {} '$share/g/t' 01) a2(0003 {} '$share/g/t')
		a< 90(0001 {} 01) 90(0002 {} 01) b0(0003 {} *)
		p! id=p clean
		p> 32('t' 0001 {} "1")
		p< 40(0001 +)
		a~
		b! id=b clean
		b> 82(0001 {} '$share/g/t' 01)
		b< 90(0001 {} 01)
		b~`},
	{"[MQTT-4.8.2c] members that are connected are preferred; without one, messages wait", "", `
		a! id=a kept
		a> 82(0001 {} '$share/g/t' 01)
		a< 90(0001 {} 01)
		b! id=b kept
		b> 82(0001 {} '$share/g/t' 01)
		b< 90(0001 {} 01)
		a/
		p! id=p clean
		p> 32('t' 0001 {} "1") 32('t' 0002 {} "2")
		p< 40(0001 +) 40(0002 +)
		b< 32('t' ?1 {} "1") 32('t' ?2 {} "2")
		b> 40(?1) 40(?2)
		b~
		b/
		p> 32('t' 0003 {} "3")
		p< 40(0003 +)
		a! present id=a kept
		a< 32('t' ?3 {} "3")`},
	{"[MQTT-3.3.2-5] what has expired meanwhile comes to no member", "5", `
		a! id=a expiry=100
		a> 82(0001 {} '$share/g/t' 01)
		a< 90(0001 {} 01)
		a/
		p! id=p clean
		p> 32('t' 0001 {02 00000002} "1") 32('t' 0002 {} "2")
		p< 40(0001 +) 40(0002 +)
		wait 3s
		a! present id=a
		a< 32('t' ?1 {} "2")`},
	{"[MQTT-3.3.4-3] the Subscription Identifier is the receiving member's", "5", `
		a! id=a clean
		a> 82(0001 {0b 05} '$share/g/t' 00)
		a< 90(0001 {} 00)
		p! id=p clean
		p> 30('t' {} "1")
		a< 30('t' {0b 05} "1")`},
}

func TestSharedStatements(t *testing.T) { play(t, sharedExchanges) }

// Filters that are none, and what their refusal is. [MQTT-4.7.1-1] [MQTT-4.7.1-2] [MQTT311-4.7.1-2] [MQTT311-4.7.1-3]
// [MQTT-4.7.3-1] [MQTT311-4.7.3-1] [MQTT-4.8.2-1] [MQTT-4.8.2-2]
func TestBadFilters(t *testing.T) {
	for _, filter := range []string{
		"a#", "a/#/b", "#/", "a/b#", "a+", "+a", "a/+b/c",
		"$share/", "$share//a", "$share/n", "$share/n/", "$share/a+/x", "$share/a#/x", "$share/n/a#",
	} {
		play(t, each("filter", "5", "a! id=a clean\na> 82(0001 {} '%s' 01 'good' 01)\na< 90(0001 {} 8f 01)\na~", filter))
		play(t, each("filter", "3", "a! id=a clean\na> 82(0001 '%s' 01 'good' 01)\na< 90(0001 80 01)\na~", filter))
	}
	play(t, []exchange{{"no filter at all", "", "a! id=a clean\na> 82(0001 {} '' 00)\na# 82"}})
}

var topicExchanges = []exchange{
	{"[MQTT-4.7.1-1] [MQTT311-4.7.1-2] # matches its parent and all below it", "", `
		s! id=s clean
		s> 82(0001 {} 'a/#' 00)
		s< 90(0001 {} 00)
		a! id=a clean
		a> 30('a' {} "1") 30('a/' {} "2") 30('a/b/c' {} "3") 30('ab' {} "4") 30('b/a' {} "5")
		s< 30('a' {} "1") 30('a/' {} "2") 30('a/b/c' {} "3")
		s~`},
	{"[MQTT-4.7.1-2] [MQTT311-4.7.1-3] + matches a level, also an empty one", "", `
		s! id=s clean
		s> 82(0001 {} '+/+' 00 'a/+/b' 00)
		s< 90(0001 {} 00 00)
		a! id=a clean
		a> 30('/a' {} "1") 30('a/' {} "2") 30('a//b' {} "3") 30('a' {} "4") 30('a/b/c' {} "5")
		s< 30('/a' {} "1") 30('a/' {} "2") 30('a//b' {} "3")
		s~`},
	{"[MQTT-4.7.2-1] [MQTT311-4.7.2-1] a filter that begins with a wildcard leaves out topics that begin with $: live", "", `
		s! id=s clean
		s> 82(0001 {} '#' 00 '+/x' 00 '$share/g/#' 00)
		s< 90(0001 {} 00 00 00)
		a! id=a clean
		a> 30('$y/x' {} "1")
		s~
		s> 82(0002 {} '$y/#' 00)
		s< 90(0002 {} 00)
		a> 30('$y/x' {} "2")
		s< 30('$y/x' {} "2")`},
	{"[MQTT-4.7.2-1] [MQTT311-4.7.2-1] and retained", "", `
		a! id=a clean
		a> 31('$CONNECTED/x' {} "1")
		a> 82(0001 {} '#' 00 '+/+' 00 '+/x' 00 '+/#' 00)
		a< 90(0001 {} 00 00 00 00)
		a~
		a> 82(0002 {} '$CONNECTED/+' 00)
		a< 90(0002 {} 00) 31('$CONNECTED/x' {} "1")`},
	{"[MQTT-4.7.3-4] [MQTT311-4.7.3-4] levels are compared byte for byte", "", `
		s! id=s clean
		s> 82(0001 {} 'a/b' 00 'é' 00)
		s< 90(0001 {} 00 00)
		a! id=a clean
		a> 30('A/b' {} "1") 30('/a/b' {} "2") 30('a/b/' {} "3") 30('a//b' {} "4") 30('e\u0301' {} "5") 30('a/b ' {} "6") 30('é' {} "7")
		s< 30('é' {} "7")
		s~`},
	{"[MQTT-4.7.3-3] [MQTT311-4.7.3-3] a filter and a topic of as many levels as there can be", "", `
		a! id=a clean
		a> 82(0001 {} '` + strings.Repeat("+/", 15000) + `#' 00)
		a< 90(0001 {} 00)
		b! id=b clean
		b> 30('` + strings.Repeat("/", 60000) + `' {} "x")
		a< 30('` + strings.Repeat("/", 60000) + `' {} "x")`},
}

func TestTopicStatements(t *testing.T) { play(t, topicExchanges) }
