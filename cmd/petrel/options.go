package main

import (
	"github.com/petrel-mqtt/mqtt"
)

// options are those of a client, by the versions that take them.
type options struct {
	both  []mqtt.Option
	only5 []mqtt.OptionV5
}

func (o *options) add(opts ...mqtt.Option)    { o.both = append(o.both, opts...) }
func (o *options) add5(opts ...mqtt.OptionV5) { o.only5 = append(o.only5, opts...) }
