package mqtt_test

import (
	"testing"

	"github.com/petrel-mqtt/mqtt"
)

func TestMatchTopic(t *testing.T) {
	for _, c := range []struct {
		filter, topic string
		want          bool
	}{
		{"a/+", "a/b", true},
		{"a/#", "a", true},
		{"a/+", "a/b/c", false},
		{"#", "$SYS/uptime", false},
		{"$share/group/a/+", "a/b", true},
		{"$share/group/a/+", "$share/group/a/b", false},
		{"a/#/b", "a/x/b", false},
		{"a/+", "a/+", false},
		{"", "", false},
	} {
		if got := mqtt.MatchTopic(c.filter, c.topic); got != c.want {
			t.Errorf("MatchTopic(%q, %q) = %v", c.filter, c.topic, got)
		}
	}
}
