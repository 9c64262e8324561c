package engine_test

import (
	"fmt"
	"testing"
)

// each makes exchanges of one script, in which %s is a text in turn.
func each(about, in, script string, texts ...string) (list []exchange) {
	for _, text := range texts {
		list = append(list, exchange{about + " " + text, in, fmt.Sprintf(script, text)})
	}
	return list
}

var (
	badStrings = []string{`\xc3\x28`, `\x80`, `a\xe2\x82`, `\xc0\xaf`, `\xed\xa0\x80`, `\xf4\x90\x80\x80`, `\xff`}
	nulStrings = []string{`\x00`, `a\x00`, `a\x00b`}
)

// Strings that are none end the connection, wherever they are, and reach nobody.
// [MQTT-1.5.4-1] [MQTT311-1.5.3-1] [MQTT-1.5.4-2] [MQTT311-1.5.3-2] [MQTT-1.5.7-1] [MQTT-3.1.3-4] [MQTT311-3.1.3-4]
// [MQTT-3.1.3-11] [MQTT311-3.1.3-10] [MQTT-3.1.3-12] [MQTT311-3.1.3-11] [MQTT-3.3.2-1] [MQTT311-3.3.2-1] [MQTT-3.3.2-13]
// [MQTT-3.3.2-19] [MQTT-3.8.3-1] [MQTT311-3.8.3-1] [MQTT-3.10.3-1] [MQTT311-3.10.3-1] [MQTT-4.7.3-2] [MQTT311-4.7.3-2]
func TestBadStrings(t *testing.T) {
	const watched = "w! id=w clean\nw> 82(0001 {} '#' 00)\nw< 90(0001 {} 00)\na! id=a clean\n"
	for _, s := range append(badStrings, nulStrings...) {
		play(t, each("client identifier", "", `
			a> 10('MQTT' VV 02 0000 {} '%s')
			a%% 81 --`, s))
		play(t, each("will topic", "", `
			a> 10('MQTT' VV 06 0000 {} 'a' {} '%s' 'x')
			a%% 81 --`, s))
		play(t, each("user name", "", `
			a> 10('MQTT' VV 82 0000 {} 'a' '%s')
			a%% 81 --`, s))
		play(t, each("topic", "", watched+"a> 30('%s' {} \"x\")\na# 81\nw~", s))
		play(t, each("filter", "", watched+"a> 82(0002 {} '%s' 00)\na# 81\nw~", s))
		play(t, each("unsubscribe", "", watched+"a> a2(0002 {} '%s')\na# 81\nw~", s))
		play(t, each("property", "5", watched+"a> 30('t' {%s} \"x\")\na# 81\nw~",
			"03 '"+s+"'", "08 '"+s+"'", "26 '"+s+"' 'v'", "26 'k' '"+s+"'"))
		play(t, each("reason string", "5", watched+"a> e0(00 {1f '%s'})\na# 81", s))
	}
}

var dataExchanges = []exchange{
	{"[MQTT-1.5.4-3] [MQTT311-1.5.3-3] U+FEFF is a character like others", "", `
		a! id=a clean
		a> 82(0001 {} '\ufefft' 00)
		a< 90(0001 {} 00)
		b! id=b clean
		b> 30('t' {} "1") 30('\ufefft' {} "2")
		a< 30('\ufefft' {} "2")
		a~`},
	{"[MQTT-1.5.4] [MQTT311-1.5.3a] control characters and non-characters are taken, everywhere", "", `
		a! id=a clean
		a> 82(0001 {} '\x01\uffff/#' 00)
		a< 90(0001 {} 00)
		b! id=b clean
		b> 30('\x01\uffff/\x7f' {} "x")
		a< 30('\x01\uffff/\x7f' {} "x")`},
	{"[MQTT-1.5.4] [MQTT-1.5.7-1] in properties as well", "5", `
		a! id=a clean
		a> 82(0001 {} 't' 00)
		a< 90(0001 {} 00)
		b! id=b clean
		b> 30('t' {26 '\x01' '\ufffe'} "x")
		a< 30('t' {26 '\x01' '\ufffe'} "x")`},
	{"[MQTT-1.5.5-1] [MQTT311-2.2.3] a length of five bytes is none", "", `
		a! id=a clean
		a> 30 8080808001 0001 "t"
		a# 81`},
	{"[MQTT-1.5.5-1] nor is one that is padded, among properties", "5", `
		a! id=a clean
		a> 30('t' 8000 "x")
		a# 81`},
	{"[MQTT-1.5.5-1] [MQTT311-2.2.3] lengths are sent in the fewest bytes", "", `
		a! id=a clean
		a> 82(0001 {} 't' 00)
		a< 90(0001 {} 00)
		a> 30('t' {} "` + hundred + `")
		a< 30('t' {} "` + hundred + `")
		a> 30('t' {} "` + hundred + hundred + `")
		a< 30('t' {} "` + hundred + hundred + `")`},
	{"[MQTT-1.5.6] [MQTT311-1.5.3b] a string that is longer than its packet", "", `
		a! id=a clean
		a> 30(00ff "t")
		a# 81`},
	{"[MQTT-1.5.6] properties that are longer than their packet", "5", `
		a! id=a clean
		a> 30('t' 05 "x")
		a# 81`},
	{"[MQTT-2.1.2] [MQTT311-2.2.1] there is no type 0", "", `
		a! id=a clean
		a> 00()
		a# 81`},
	{"[MQTT311-2.2.1] nor type 15", "3", `
		a! id=a clean
		a> f0()
		a.`},
	{"[MQTT-2.1.2] [MQTT311-2.2.1] CONNACK is for servers", "", `
		a! id=a clean
		a> 20(00 00 {})
		a# 82`},
	{"[MQTT-2.1.2] [MQTT311-2.2.1] so is SUBACK", "", `
		a! id=a clean
		a> 90(0001 {} 00)
		a# 82`},
	{"[MQTT-2.1.2] [MQTT311-2.2.1] UNSUBACK", "", `
		a! id=a clean
		a> b0(0001 {})
		a# 82`},
	{"[MQTT-2.1.2] [MQTT311-2.2.1] and PINGRESP", "", `
		a! id=a clean
		a> d0()
		a# 82`},
	{"[MQTT-2.1.4] [MQTT311-2.2.3a] nothing follows the last field", "", `
		a! id=a clean
		a> c0(00)
		a# 81`},
	{"[MQTT-2.1.4] [MQTT311-2.2.3a] in PUBACK neither", "", `
		a! id=a clean
		a> 40(0001 00 00 00)
		a# 81`},
	{"[MQTT-2.2.1-3] [MQTT311-2.3.1-1] [MQTT311-2.3.1-2] PUBLISH with the identifier 0", "", `
		a! id=a clean
		a> 32('t' 0000 {} "x")
		a# 82`},
	{"[MQTT-2.2.1-3] [MQTT311-2.3.1-1] [MQTT311-2.3.1-2] SUBSCRIBE with the identifier 0", "", `
		a! id=a clean
		a> 82(0000 {} 't' 00)
		a# 82`},
	{"[MQTT-2.2.1-3] [MQTT311-2.3.1-1] [MQTT311-2.3.1-2] UNSUBSCRIBE with the identifier 0", "", `
		a! id=a clean
		a> a2(0000 {} 't')
		a# 82`},
	{"[MQTT-2.2.1-4] [MQTT311-2.3.1-4] each direction has its identifiers", "", `
		a! id=a clean
		a> 82(0001 {} 'in' 02)
		a< 90(0001 {} 02)
		b! id=b clean
		b> 32('in' 0001 {} "x")
		b< 40(0001 +)
		a< 32('in' ?m {} "x")
		# The identifier of the delivery is used for a message of the client, and half of both is done.
		a> 34('out' ?m {} "y")
		a< 50(?m +)
		a> 40(?m)
		a> 62(?m)
		a< 70(?m)
		a~`},
	{"[MQTT-2.2.1-5] [MQTT311-2.3.1-6] acknowledgements have the identifier of their message", "", `
		a! id=a clean
		a> 32('t' 0005 {} "1") 34('t' 0009 {} "2") 32('t' 0007 {} "3")
		a< 40(0005 +) 50(0009 +) 40(0007 +)
		a> 62(0009)
		a< 70(0009)`},
	{"[MQTT-2.2.1-6] [MQTT311-2.3.1-7] SUBACK and UNSUBACK have that of the request", "", `
		a! id=a clean
		a> 82(0005 {} 't' 00) 82(0003 {} 'u' 01) a2(0009 {} 't')
		a< 90(0005 {} 00) 90(0003 {} 01) b0(0009 {} *)`},
	{"[MQTT-2.2.2-1] where there are no properties, their length is 0 or left out", "5", `
		a! id=a clean
		a> 82(0001 {} 't' 01)
		a< 90(0001 00 01)
		b! id=b clean
		b> 32('t' 0001 {} "1") 32('t' 0002 {} "2") 32('t' 0003 {} "3")
		b< 40(0001 +) 40(0002 +) 40(0003 +)
		a< 32('t' ?1 00 "1") 32('t' ?2 00 "2") 32('t' ?3 00 "3")
		a> 40(?1) 40(?2 00) 40(?3 00 {})
		a~
		b> e0(00)
		b.`},
	{"[MQTT-2.2.2.2a] a property that PUBLISH does not have", "5", `
		a! id=a clean
		a> 30('t' {11 00000001} "x")
		a# 81`},
	{"[MQTT-2.2.2.2a] a property that does not exist", "5", `
		a! id=a clean
		a> 30('t' {7f 01} "x")
		a# 81`},
	{"[MQTT-2.2.2.2a] a property of CONNACK in CONNECT", "5", `
		a> 10('MQTT' 05 02 0000 {24 01} 'a')
		a% 81 --`},
	{"[MQTT-2.2.2.2b] a property that is there twice", "5", `
		a! id=a clean
		a> 30('t' {03 'a' 03 'a'} "x")
		a# 82`},
	{"[MQTT-2.2.2.2c] properties come in any order, and User Properties keep theirs", "5", `
		a! id=a clean
		a> 82(0001 {} 't' 00)
		a< 90(0001 {} 00)
		a> 30('t' {26 'z' '1' 08 'r' 26 'a' '2' 01 01 26 'z' '1'} "x")
		a< 30('t' {01 01 08 'r' 26 'z' '1' 26 'a' '2' 26 'z' '1'} "x")`},
}

const hundred = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"

func TestDataStatements(t *testing.T) { play(t, dataExchanges) }

// Each type has its flags. [MQTT-2.1.3-1] [MQTT311-2.2.2-1] [MQTT311-2.2.2-2] [MQTT-3.6.1-1] [MQTT311-3.6.1-1]
// [MQTT-3.8.1-1] [MQTT311-3.8.1-1] [MQTT-3.10.1-1] [MQTT311-3.10.1-1] [MQTT-3.14.1-1] [MQTT311-3.14.1-1] [MQTT-3.15.1-1]
func TestReservedFlags(t *testing.T) {
	for _, packet := range []struct {
		kind, right byte
		in, rest    string
	}{
		{0x4, 0, "", "(0001)"},
		{0x5, 0, "", "(0001)"},
		{0x6, 2, "", "(0001)"},
		{0x7, 0, "", "(0001)"},
		{0x8, 2, "", "(0001 {} 't' 00)"},
		{0xA, 2, "", "(0001 {} 't')"},
		{0xC, 0, "", "()"},
		{0xE, 0, "", "()"},
		{0xF, 0, "5", "()"},
	} {
		for flags := range byte(16) {
			if flags != packet.right {
				play(t, each("flags", packet.in, "a! id=a clean\na> %s\na# 81", fmt.Sprintf("%02x%s", packet.kind<<4|flags, packet.rest)))
			}
		}
	}
	play(t, each("flags of CONNECT", "", "a> %s('MQTT' VV 02 0000 {} 'a')\na-", "11", "12", "14", "18"))
}

// A packet has codes of its table only; what is not in it is no success. [MQTT-2.4] [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1]
// [MQTT-3.7.2-1] [MQTT-3.14.2-1] [MQTT-3.15.2-1]
func TestCodesOfClients(t *testing.T) {
	for _, code := range []string{"01", "7f", "ff"} {
		play(t, each("acknowledgements", "5", "a! id=a clean\na> %s\na# 82",
			"40(0001 "+code+")", "50(0001 "+code+")", "62(0001 "+code+")", "70(0001 "+code+")", "e0("+code+")", "f0("+code+" {15 'M'})"))
	}
	play(t, each("codes that a server has", "5", "a! id=a clean\na> %s\na# 82", "e0(8e)", "e0(8b)", "62(0001 80)", "70(0001 80)"))
}
