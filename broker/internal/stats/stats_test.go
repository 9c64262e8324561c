package stats

import (
	"math"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// numbered is a snapshot in which every number is another one, from 100 on.
func numbered() Snapshot {
	s := Snapshot{Version: "petrel 1", Uptime: 90500 * time.Millisecond}
	v := reflect.ValueOf(&s).Elem()
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.Int64:
			if f.Type() != reflect.TypeFor[time.Duration]() {
				f.SetInt(int64(100 + i))
			}
		case reflect.Uint64:
			f.SetUint(uint64(100 + i))
		}
	}
	return s
}

func topicsOf(list []Topic) map[string]string {
	topics := map[string]string{}
	for _, t := range list {
		topics[t.Name] = t.Payload
	}
	return topics
}

// Mosquitto 2.0.11 has these topics, and exporters read them. Numbers are whole ones, except averages.
func TestMosquittosTopics(t *testing.T) {
	topics := topicsOf(NewSys().Update(numbered()))
	for _, name := range strings.Fields(`
		bytes/received bytes/sent clients/active clients/connected clients/disconnected clients/expired clients/inactive
		clients/maximum clients/total heap/current heap/maximum messages/received messages/sent messages/stored
		publish/bytes/received publish/bytes/sent publish/messages/dropped publish/messages/received publish/messages/sent
		retained_messages/count shared_subscriptions/count store/messages/bytes store/messages/count subscriptions/count`) {
		name = "$SYS/broker/" + strings.Replace(name, "retained_", "retained ", 1)
		if n, err := strconv.Atoi(topics[name]); err != nil || n < 100 {
			t.Errorf("%s: %q", name, topics[name])
		}
	}
	average := regexp.MustCompile(`^[0-9]+\.[0-9]{2}$`)
	for _, name := range strings.Fields(`bytes/received bytes/sent connections messages/received messages/sent publish/dropped
		publish/received publish/sent sockets`) {
		for _, span := range []string{"1min", "5min", "15min"} {
			if topic := "$SYS/broker/load/" + name + "/" + span; !average.MatchString(topics[topic]) {
				t.Errorf("%s: %q", topic, topics[topic])
			}
		}
	}
	if topics["$SYS/broker/version"] != "petrel 1" || topics["$SYS/broker/uptime"] != "90 seconds" {
		t.Errorf("version %q, uptime %q", topics["$SYS/broker/version"], topics["$SYS/broker/uptime"])
	}
}

// Every number is told in both ways, and none under the name of another.
func TestEveryNumberIsTold(t *testing.T) {
	s := numbered()
	metrics := metricsOf(t, s)
	topics := topicsOf(NewSys().Update(s))
	v := reflect.ValueOf(s)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		if name == "Version" || name == "Uptime" {
			continue
		}
		text := strconv.Itoa(100 + i)
		inTopic := slices.Contains(mapValues(topics), text) || name == "Sockets" || name == "Connects" // these have averages only
		if !inTopic || !slices.Contains(mapValues(metrics), text) {
			t.Errorf("%s is not told", name)
		}
	}
	for name, want := range map[string]string{
		"petrel_broker_clients_connected": strconv.FormatInt(s.Connected, 10),
		"petrel_broker_clients":           strconv.FormatInt(s.Connected+s.Disconnected, 10),
		"petrel_broker_sent_bytes_total":  strconv.FormatUint(s.BytesSent, 10),
		"petrel_broker_uptime_seconds":    "90.5",
		`petrel_broker_info`:              "1",
	} {
		if metrics[name] != want {
			t.Errorf("%s is %q, want %q", name, metrics[name], want)
		}
	}
}

func mapValues(m map[string]string) (list []string) {
	for _, v := range m {
		list = append(list, v)
	}
	return list
}

// metricsOf checks the text's form and returns the values.
func metricsOf(t *testing.T, s Snapshot) map[string]string {
	t.Helper()
	var b strings.Builder
	if err := WriteMetrics(&b, s); err != nil {
		t.Fatal(err)
	}
	values := map[string]string{}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	for i := 0; i+2 < len(lines); i += 3 {
		name, value, _ := strings.Cut(lines[i+2], " ")
		if label := strings.IndexByte(name, '{'); label >= 0 {
			name, value = name[:label], lines[i+2][strings.LastIndexByte(lines[i+2], ' ')+1:]
		}
		kind := " gauge"
		if strings.HasSuffix(name, "_total") {
			kind = " counter"
		}
		if !strings.HasPrefix(lines[i], "# HELP "+name+" ") || lines[i+1] != "# TYPE "+name+kind {
			t.Errorf("not in the format:\n%s", strings.Join(lines[i:i+3], "\n"))
		}
		if _, ok := values[name]; ok {
			t.Errorf("%s is there twice", name)
		}
		values[name] = value
	}
	return values
}

// A label may have anything in it.
func TestMetricsQuote(t *testing.T) {
	var b strings.Builder
	if err := WriteMetrics(&b, Snapshot{Version: "a\"b\\c\nd"}); err != nil || !strings.Contains(b.String(), `info{version="a\"b\\c\nd"} 1`) {
		t.Errorf("%v: %s", err, b.String())
	}
}

// Only what changes is said again.
func TestUpdateSaysWhatChanges(t *testing.T) {
	s := NewSys()
	now := Snapshot{Version: "v", Uptime: time.Second}
	first := len(s.Update(now))
	now.Uptime, now.Connected = 2*time.Second, 1
	got := topicsOf(s.Update(now))
	want := map[string]string{
		"$SYS/broker/uptime": "2 seconds", "$SYS/broker/clients/connected": "1", "$SYS/broker/clients/active": "1", "$SYS/broker/clients/total": "1",
	}
	if first < 50 || !reflect.DeepEqual(got, want) {
		t.Errorf("%d topics, then %v", first, got)
	}
	if again := s.Update(now); again != nil {
		t.Errorf("said again: %v", again)
	}
}

// The averages are of so many a minute, and reach a constant rate in time.
func TestAverages(t *testing.T) {
	s := NewSys()
	var now Snapshot
	run := func(updates int, each time.Duration, messages uint64) map[string]string {
		for range updates {
			now.Uptime += each
			now.PublishReceived += messages
			s.Update(now)
		}
		return s.said
	}
	value := func(said map[string]string, span string) float64 {
		f, err := strconv.ParseFloat(said["$SYS/broker/load/publish/received/"+span], 64)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	said := run(6, 10*time.Second, 10) // 60 in a minute
	if got, want := value(said, "1min"), 60*(1-math.Exp(-1)); math.Abs(got-want) > 0.01 {
		t.Errorf("after a minute %v, want %v", got, want)
	}
	said = run(1000, 10*time.Second, 10)
	for _, span := range []string{"1min", "5min", "15min"} {
		if got := value(said, span); math.Abs(got-60) > 0.01 {
			t.Errorf("%s: %v, want 60", span, got)
		}
	}
	said = run(30, 10*time.Second, 0)
	if got, want := value(said, "5min"), 60*math.Exp(-1); math.Abs(got-want) > 0.01 {
		t.Errorf("after five silent minutes %v, want %v", got, want)
	}
}
