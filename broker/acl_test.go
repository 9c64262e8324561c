package broker

import "testing"

func TestACL(t *testing.T) {
	const file = "\ufeff" + `# Clients without a user name.
topic read public/#
topic $SYS/broker/uptime

user alice
topic readwrite home/#
topic deny home/safe
topic read a topic with spaces/+
topic write in/+

user bob the builder
topic #

pattern read to/%u/#
pattern write from/%c/+
pattern deny everyones/nightmare
pattern %u/own
`
	a, err := parseACL([]byte(file))
	check(t, err)
	for _, c := range []struct {
		user, id string
		access   Access
		topic    string
		want     bool
	}{
		{"", "x", Receive, "public/a/b", true},
		{"", "x", Receive, "public", true},
		{"", "x", Publish, "public/a", false},
		{"", "x", Receive, "home/a", false},
		{"", "x", Receive, "$SYS/broker/uptime", true},
		{"", "x", Receive, "$SYS/broker/version", false},
		{"", "x", Receive, "to//a", false}, // no user, no pattern of users
		{"alice", "x", Publish, "home/a", true},
		{"alice", "x", Receive, "home/a", true},
		{"alice", "x", Publish, "home/safe", false},
		{"alice", "x", Receive, "home/safe", false},
		{"alice", "x", Receive, "a topic with spaces/1", true},
		{"alice", "x", Publish, "in/1", true},
		{"alice", "x", Receive, "in/1", false},
		{"alice", "x", Receive, "public/a", false},
		{"alice", "x", Receive, "to/alice/a", true},
		{"alice", "x", Receive, "to/bob/a", false},
		{"alice", "x", Publish, "from/x/a", true},
		{"alice", "y", Publish, "from/x/a", false},
		{"alice", "+", Publish, "from/x/a", false},
		{"alice", "a/b", Publish, "from/a/b", false},
		{"$SYS", "x", Receive, "$SYS/own", false},
		{"carol", "x", Publish, "carol/own", true},
		{"bob the builder", "x", Publish, "any/thing", true},
		{"bob the builder", "x", Publish, "$SYS/any", false}, // # does not match $SYS
		{"bob the builder", "x", Receive, "everyones/nightmare", false},

		{"alice", "x", Subscribe, "home/#", true},
		{"alice", "x", Subscribe, "#", true}, // gets what is hers
		{"alice", "x", Subscribe, "+/safe", true},
		{"alice", "x", Subscribe, "in/+", false},
		{"alice", "x", Subscribe, "public/#", false},
		{"alice", "x", Subscribe, "$SYS/#", false},
		{"", "x", Subscribe, "$SYS/#", true},
		{"", "x", Subscribe, "+/broker", true}, // public/broker
		{"", "x", Subscribe, "home/+", false},
	} {
		if got := a.allows(Client{ID: c.id, Username: c.user}, c.access, c.topic); got != c.want {
			t.Errorf("user %q, id %q, access %d, %s: %v", c.user, c.id, c.access, c.topic, got)
		}
	}
}

func TestOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"a", "a", true}, {"a", "b", false}, {"a/b", "a", false},
		{"a/+", "+/b", true}, {"a/+", "a", false}, {"a/#", "a", true}, {"a/b/#", "a/+", true},
		{"a/b/c/#", "a/+", false}, {"#", "a/b", true}, {"#", "$SYS/a", false}, {"+/a", "$SYS/a", false},
		{"$SYS/#", "$SYS/+/b", true}, {"#", "+", true}, {"a//b", "a/+/b", true}, {"/a", "+/a", true},
	} {
		if overlap(c.a, c.b) != c.want || overlap(c.b, c.a) != c.want {
			t.Errorf("%s and %s: not %v", c.a, c.b, c.want)
		}
	}
}

func TestBadACL(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"topics read a", `line 2: "topics" is not known; the nearest is topic`},
		{"user", "line 2: user: the name is missing"},
		{"topic", "line 2: topic: the topic is missing"},
		{"topic a/#/b", `line 2: topic: "a/#/b" is not a topic filter: # must be a level of its own, and the last one [MQTT-4.7.1-1]`},
		{"pattern read a+/%u", `line 2: pattern: "a+/%u" is not a topic filter: + must be a level of its own [MQTT-4.7.1-2]`},
	} {
		if _, err := parseACL([]byte("# a comment\n" + c.line)); err == nil || err.Error() != c.want {
			t.Errorf("%s\n got %v\nwant %s", c.line, err, c.want)
		}
	}
}

// HBMQTT's topic-check: a list of filters by user to subscribe, and maybe one to publish.
func TestTopicCheck(t *testing.T) {
	lists := map[string][]string{"test": {"repositories/+/master", "calendar/#"}, anonymous: {"public"}}
	for _, c := range []struct {
		check  TopicCheck
		user   string
		access Access
		topic  string
		want   bool
	}{
		{TopicCheck{Subscribe: lists}, "test", Receive, "repositories/x/master", true},
		{TopicCheck{Subscribe: lists}, "test", Receive, "repositories/x/devel", false},
		{TopicCheck{Subscribe: lists}, "test", Subscribe, "calendar/+", true},
		{TopicCheck{Subscribe: lists}, "test", Publish, "anything", true},
		{TopicCheck{Subscribe: lists}, "", Receive, "public", true},
		{TopicCheck{Subscribe: lists}, anonymous, Receive, "public", false},
		{TopicCheck{Subscribe: lists}, "other", Receive, "public", false},
		{TopicCheck{Publish: lists}, "test", Publish, "calendar/1", true},
		{TopicCheck{Publish: lists}, "test", Publish, "anything", false},
		{TopicCheck{Publish: lists}, "test", Receive, "calendar/1", false},
	} {
		if got := newACL(&c.check).allows(Client{ID: "x", Username: c.user}, c.access, c.topic); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
