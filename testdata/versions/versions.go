// Package versions does not compile: each line that says so must be refused, and no other.
package versions

import (
	"context"
	"time"

	"github.com/petrel-mqtt/mqtt"
)

func clients(ctx context.Context) {
	_, _ = mqtt.NewClient(ctx, "host", mqtt.WithClientID("a"), mqtt.WithSessionExpiry(time.Minute))
	_, _ = mqtt.NewClientV311(ctx, "host", mqtt.WithClientID("a"), mqtt.Options{mqtt.WithCleanStart(false)})
	_, _ = mqtt.NewClientV311(ctx, "host", mqtt.WithSessionExpiry(time.Minute))                // must not compile
	_, _ = mqtt.NewClientV311(ctx, "host", mqtt.WithReceiveMaximum(1))                         // must not compile
	_, _ = mqtt.NewClientV311(ctx, "host", mqtt.WithUserProperties())                          // must not compile
	_, _ = mqtt.NewClientV311(ctx, "host", mqtt.WithWillProperties(nil))                       // must not compile
	_, _ = mqtt.NewClientV311(ctx, "host", mqtt.Options{mqtt.WithSessionExpiry(0)})            // must not compile
	_, _ = mqtt.NewClient(ctx, "host", mqtt.AtLeastOnce)                                       // must not compile
	_, _ = mqtt.NewClientV311(ctx, "host", mqtt.WithWill("t", nil, &mqtt.PublishProperties{})) // must not compile
}

func publish(ctx context.Context, c5 mqtt.ClientV5, c3 mqtt.ClientV311, both mqtt.Client) {
	_ = c5.Publish(ctx, "t", nil, mqtt.AtLeastOnce, mqtt.Retain, &mqtt.PublishProperties{})
	_ = c3.Publish(ctx, "t", nil, mqtt.AtLeastOnce, mqtt.NoRetain, mqtt.PublishOptions{mqtt.Retain})
	_ = both.Publish(ctx, "t", nil, mqtt.AtLeastOnce)
	_ = c3.Publish(ctx, "t", nil, &mqtt.PublishProperties{})      // must not compile
	_ = c3.PublishAsync(ctx, "t", nil, &mqtt.PublishProperties{}) // must not compile
	_ = both.Publish(ctx, "t", nil, &mqtt.PublishProperties{})    // must not compile
	_ = c5.Publish(ctx, "t", nil, &mqtt.WillProperties{})         // must not compile
	_ = c5.Publish(ctx, "t", nil, mqtt.NoLocal)                   // must not compile
}

func subscribe(ctx context.Context, c5 mqtt.ClientV5, c3 mqtt.ClientV311) {
	_, _ = c5.Subscribe(ctx, "f", mqtt.NoLocal, mqtt.SkipRetained, mqtt.SubscriptionIdentifier(1), mqtt.ManualAck)
	_, _ = c3.Subscribe(ctx, "f", mqtt.AtLeastOnce, mqtt.Buffer(1), mqtt.DropNewest, mqtt.Also(mqtt.AtMostOnce, "g"))
	_, _ = c3.Subscribe(ctx, "f", mqtt.NoLocal)                   // must not compile
	_, _ = c3.Subscribe(ctx, "f", mqtt.SkipRetained)              // must not compile
	_, _ = c3.Subscribe(ctx, "f", mqtt.SubscriptionIdentifier(1)) // must not compile
	_, _ = c3.Subscribe(ctx, "f", &mqtt.SubscribeProperties{})    // must not compile
	_, _ = c5.Subscribe(ctx, "f", mqtt.Retain)                    // must not compile
}

func disconnect(ctx context.Context, c5 mqtt.ClientV5, c3 mqtt.ClientV311) {
	_ = c5.Disconnect(ctx, mqtt.DisconnectWithWill, mqtt.KeepSession(time.Hour), &mqtt.DisconnectProperties{})
	_ = c3.Disconnect(ctx)
	_ = c3.Disconnect(ctx, mqtt.DisconnectWithWill) // must not compile
	var _ mqtt.Client = c3
	var _ mqtt.Client = mqtt.Common(c5)
	var _ mqtt.Client = c5 // must not compile
}
