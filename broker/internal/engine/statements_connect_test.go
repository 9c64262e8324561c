package engine_test

import (
	"strings"
	"testing"
)

var connectExchanges = []exchange{
	{"[MQTT-3.1.0-1] [MQTT311-3.1.0-1] [MQTT-3.14.0-1] PINGREQ first", "", "a> c0()\na."},
	{"[MQTT-3.1.0-1] [MQTT311-3.1.0-1] [MQTT-3.14.0-1] PUBLISH first", "", "a> 30('t' {} \"x\")\na."},
	{"[MQTT-3.1.0-1] [MQTT311-3.1.0-1] [MQTT-3.14.0-1] DISCONNECT first", "", "a> e0()\na."},
	{"[MQTT-3.1.0-1] [MQTT-3.14.0-1] AUTH first", "5", "a> f0(18 {15 'M'})\na."},
	{"[MQTT-3.1.0-1] [MQTT311-3.1.0-1] [MQTT-3.14.0-1] something else first", "", "a> \"GET / HTTP/1.1\\r\\n\\r\\n\"\na."},
	{"[MQTT-3.1.0-1] [MQTT311-3.1.0-1] what claims to be a huge CONNECT", "", "a> 10 ffffff7f\na."},

	{"[MQTT-3.1.0-2] [MQTT311-3.1.0-2] a second CONNECT, of a client that another one is", "", `
		b! id=b kept
		w! id=w clean
		w> 82(0001 {} 'will' 00)
		w< 90(0001 {} 00)
		a! id=a clean will=will,x,0,0,0
		a> 10('MQTT' VV 02 0000 {} 'b')
		a# 82
		w< 30('will' {} "x")
		b~`},
	{"[MQTT-3.1.2-1] [MQTT311-3.1.2-1] another protocol name", "", "a> 10('mqtt' VV 02 0000 {} 'a')\na-"},
	{"[MQTT-3.1.2-3] [MQTT311-3.1.2-3] the reserved connect flag", "", "a> 10('MQTT' VV 03 0000 {} 'a')\na% 81 --"},
	{"[MQTT-3.1.2-9] [MQTT311-3.1.2-9] [MQTT-3.1.4-1] [MQTT311-3.1.4-1] a will flag and no will", "", "a> 10('MQTT' VV 06 0000 {} 'a')\na% 81 --"},
	{"[MQTT-3.1.2-9] [MQTT311-3.1.2-9] a will flag and no will payload", "", "a> 10('MQTT' VV 06 0000 {} 'a' {} 'w')\na% 81 --"},
	{"[MQTT-3.1.2-11] [MQTT311-3.1.2-11] [MQTT311-3.1.2-13] will QoS 1 without a will", "", "a> 10('MQTT' VV 0a 0000 {} 'a')\na% 82 --"},
	{"[MQTT-3.1.2-11] [MQTT311-3.1.2-11] [MQTT311-3.1.2-13] will QoS 2 without a will", "", "a> 10('MQTT' VV 12 0000 {} 'a')\na% 82 --"},
	{"[MQTT-3.1.2-13] [MQTT311-3.1.2-11] [MQTT311-3.1.2-15] will retain without a will", "", "a> 10('MQTT' VV 22 0000 {} 'a')\na% 82 --"},
	{"[MQTT-3.1.2-12] [MQTT311-3.1.2-14] will QoS 3", "", "a> 10('MQTT' VV 1e 0000 {} 'a' {} 'w' 'x')\na% 81 --"},
	{"[MQTT-3.1.2-17] [MQTT311-3.1.2-19] a user name flag and no user name", "", "a> 10('MQTT' VV 82 0000 {} 'a')\na% 81 --"},
	{"[MQTT-3.1.2-16] [MQTT311-3.1.2-18] a user name and no flag", "", "a> 10('MQTT' VV 02 0000 {} 'a' 'u')\na% 81 --"},
	{"[MQTT-3.1.2-19] [MQTT311-3.1.2-21] a password flag and no password", "", "a> 10('MQTT' VV c2 0000 {} 'a' 'u')\na% 81 --"},
	{"[MQTT-3.1.2-18] [MQTT311-3.1.2-20] a password and no flag", "", "a> 10('MQTT' VV 82 0000 {} 'a' 'u' 'p')\na% 81 --"},
	{"[MQTT-3.1.2-19] [MQTT311-3.1.2-21] a password of any bytes, and an empty user name", "", `
		a> 10('MQTT' VV c2 0000 {} 'a' '' '\x00\xff')
		a< 20(00 00 {*})`},
	{"[MQTT-3.1.2.9] a password without a user name", "5", "a> 10('MQTT' VV 42 0000 {} 'a' 'p')\na< 20(00 00 {*})"},
	{"[MQTT311-3.1.2-22] a password without a user name", "3", "a> 10('MQTT' VV 42 0000 {} 'a' 'p')\na."},
	{"[MQTT-3.1.3-1] [MQTT311-3.1.3-1] the order of the payload", "", `
		w! id=w clean
		w> 82(0001 {} 'topic' 00)
		w< 90(0001 {} 00)
		a> 10('MQTT' VV c6 0000 {} 'a' {} 'topic' 'payload' 'user' 'password')
		a< 20(00 00 {*})
		a/
		w< 30('topic' {} "payload")`},
	{"[MQTT-3.1.3-3] [MQTT311-3.1.3-3] no payload", "", "a> 10('MQTT' VV 02 0000 {})\na% 81 --"},
	{"[MQTT-3.1.3-11] [MQTT311-3.1.3-10] a will topic with a wildcard", "", "a> 10('MQTT' VV 06 0000 {} 'a' {} 'w/#' 'x')\na-"},
	{"[MQTT-3.1.3-11] [MQTT311-3.1.3-10] an empty will topic", "", "a> 10('MQTT' VV 06 0000 {} 'a' {} '' 'x')\na-"},
	{"[MQTT-3.1.2.11] Receive Maximum 0", "5", "a> 10('MQTT' 05 02 0000 {21 0000} 'a')\na% 82 --"},
	{"[MQTT-3.1.2.11] Maximum Packet Size 0", "5", "a> 10('MQTT' 05 02 0000 {27 00000000} 'a')\na% 82 --"},
	{"[MQTT-3.1.2.11] Request Problem Information 2", "5", "a> 10('MQTT' 05 02 0000 {17 02} 'a')\na% 82 --"},
	{"[MQTT-3.1.2.11] Request Response Information 2", "5", "a> 10('MQTT' 05 02 0000 {19 02} 'a')\na% 82 --"},
	{"[MQTT-3.1.2.11] Authentication Data without a method", "5", "a> 10('MQTT' 05 02 0000 {16 'x'} 'a')\na% 82 --"},
	{"[MQTT-3.1.3.2] a property that wills do not have", "5", "a> 10('MQTT' 05 06 0000 {} 'a' {11 00000001} 'w' 'x')\na% 81 --"},
	{"[MQTT-3.1.3.2] a will's expiry begins when it is published", "5", `
		w! id=w clean
		w> 82(0001 {} 'w' 00)
		w< 90(0001 {} 00)
		a> 10('MQTT' 05 06 0000 {11 00000064} 'a' {18 0000000a 02 00000005} 'w' 'x')
		a< 20(00 00 {*})
		a/
		wait 10s
		w< 30('w' {02 00000005} "x")`},
	{"[MQTT-3.1.3-5] [MQTT311-3.1.3-5] client identifiers of 1 and of 23 letters and digits", "", `
		a! id=a clean
		b! id=0123456789abcdefghiJKLM clean
		a~
		b~`},
	{"[MQTT-3.1.3-5] [MQTT311-3.1.3-5] others are taken as well", "", `
		a! id=../+/#/$x clean
		a~`},
	{"[MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16] who sends no client identifier gets one of its own", "5", `
		a> 10('MQTT' 05 02 0000 {11 00000064} '')
		a< 20(00 00 {*})
		b> 10('MQTT' 05 02 0000 {11 00000064} '')
		b< 20(00 00 {*})
		a~
		b~`},
	{"[MQTT311-3.1.3-6] who sends no client identifier gets one of its own", "3", `
		a> 10('MQTT' 04 02 0000 '')
		a< 20(00 00)
		b> 10('MQTT' 04 02 0000 '')
		b< 20(00 00)
		a~
		b~`},
	{"[MQTT311-3.1.3-7] [MQTT311-3.1.3-8] but not if it wants to keep its session", "3", `
		a> 10('MQTT' 04 00 0000 '')
		a% -- 02`},
	{"[MQTT-3.1.3.1] MQTT 5.0 has no such rule", "5", `
		a> 10('MQTT' 05 00 0000 {} '')
		a< 20(00 00 {*})`},
	{"[MQTT-3.1.3-8] [MQTT311-3.1.3-9] [MQTT-3.2.2-6] [MQTT-3.2.2-7] [MQTT-3.2.2-8] [MQTT311-3.2.2-4] [MQTT311-3.2.2-5] [MQTT311-3.2.2-6] a client identifier that is not allowed", "", `
		a> 10('MQTT' VV 02 0000 {} 'unwanted')
		a% 85 02`},
	{"[MQTT-3.1.4-2] [MQTT311-3.1.4] [MQTT-3.2.2-6] [MQTT-3.2.2-7] [MQTT311-3.2.2-4] [MQTT311-3.2.2-5] [MQTT-3.2.2-8] [MQTT311-3.2.2-6] who is refused changes nothing: the client and its session are as before", "", `
		a! id=a kept user=alice
		a> 82(0001 {} 't' 01)
		a< 90(0001 {} 01)
		b> 10('MQTT' VV 82 0000 {} 'a' 'mallory')
		b% 86 04
		a~
		a/
		a! present id=a kept user=alice
		a> 32('t' 0001 {} "x")
		a& 40(0001 +) 32('t' ?m {} "x")`},
	{"[MQTT-3.1.2-7] [MQTT311-3.1.2-8] the will of a client that was refused is not published", "", `
		w! id=w clean
		w> 82(0001 {} 'will' 00)
		w< 90(0001 {} 00)
		b> 10('MQTT' VV 86 0000 {} 'a' {} 'will' 'x' 'mallory')
		b% 86 04
		w~`},
	{"[MQTT-3.1.4-6] [MQTT311-3.1.4-5] what follows the CONNECT of a client that was refused is ignored", "", `
		w! id=w clean
		w> 82(0001 {} '#' 00)
		w< 90(0001 {} 00)
		b> 10('MQTT' VV 82 0000 {} 'a' 'mallory') 30('t' {} "x") 82(0001 {} 't' 00)
		b% 86 04
		w~`},
	{"[MQTT-3.1.4] [MQTT311-3.1.4a] what follows CONNECT before CONNACK counts once the client is let in", "", `
		a> 10('MQTT' VV 02 0000 {} 'a') 82(0001 {} 't' 00) 30('t' {} "x")
		a< 20(00 00 {*}) 90(0001 {} 00) 30('t' {} "x")`},
	{"[MQTT-3.1.4-5] [MQTT311-3.1.4-4] [MQTT-3.2.0-1] [MQTT311-3.2.0-1] [MQTT-3.2.2-1] [MQTT311-3.2.2.1] who may connect gets CONNACK, with flags that are 0", "", `
		a> 10('MQTT' VV 02 0000 {} 'a')
		a< 20(00 00 {*})
		a~`},
	{"[MQTT-3.1.2-28] [MQTT-3.2.2-19] [MQTT-3.2.2-20] no Response Information comes, asked for or not, nor anything else that CONNACK could do without", "5", `
		a> 10('MQTT' 05 02 0000 {19 00} 'a')
		a< 20(00 00 {21 0400 27 00010000 22 0040})
		b> 10('MQTT' 05 02 0000 {19 01} 'b')
		b< 20(00 00 {21 0400 27 00010000 22 0040})`},
	{"[MQTT-3.1.2-30] between CONNECT with a method and CONNACK there is nothing except AUTH", "5", `
		a> 10('MQTT' 05 02 0000 {15 'M' 16 '1'} 'a')
		a< f0(18 {15 'M' 16 '2'})
		a> 30('t' {} "x")
		a% 82 --`},

	{"[MQTT-3.1.4-3] [MQTT311-3.1.4-2] a second connection of a client ends the first one", "", `
		a! id=c clean
		b! id=c clean
		a# 8e
		b~`},
	{"[MQTT-3.1.3-2] [MQTT311-3.1.3-2] client identifiers that differ in anything are different clients", "", `
		a! id=c clean
		b! id=C clean
		d! id=c\u0301 clean
		e! id=ć clean
		a~
		b~
		d~
		e~`},
}

func TestConnectStatements(t *testing.T) { play(t, connectExchanges) }

// A version that there is not. [MQTT-3.1.2-2] [MQTT311-3.1.2-2]
func TestUnknownVersions(t *testing.T) {
	play(t, each("version", "", "a> 10('MQTT' %s 02 0000 'a')\na< 20(00 01)\na.", "00", "03", "06", "84", "ff"))
	play(t, each("version of old", "", "a> 10('MQIsdp' %s 02 0000 'a')\na-", "03"))
}

// A CONNECT that ends before it should. [MQTT-3.1.4-1] [MQTT311-3.1.4-1]
func TestTruncatedConnect(t *testing.T) {
	for _, v := range []string{"05", "04"} {
		body := "0004 4d 51 54 54 " + v + " c6 00 00" + map[string]string{"05": " 00", "04": ""}[v] + " 00 01 61" +
			map[string]string{"05": " 00", "04": ""}[v] + " 00 01 77 00 01 78 00 01 75 00 01"
		in := map[string]string{"05": "5", "04": "3"}[v]
		words := strings.Fields(body)
		for n := 6; n <= len(words); n++ { // from the version on, so that the answer has a form
			play(t, each("truncated", in, "a> 10(%s)\na%% 81 --", strings.Join(words[:n], " ")))
		}
	}
}
