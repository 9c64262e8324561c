package mqtt

import "github.com/petrel-mqtt/mqtt/internal/topic"

// MatchTopic reports whether messages on a topic match a topic filter (section 4.7), which may be that of a shared
// subscription. It returns false if the topic or the filter is invalid.
func MatchTopic(filter, topicName string) bool {
	return topic.CheckFilter(filter) == nil && topic.CheckName(topicName) == nil &&
		topic.Match(topic.Inner(filter, nil), topicName)
}
