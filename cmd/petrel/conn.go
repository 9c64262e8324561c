package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"
)

// conn is the command that connects and does nothing else.
type conn struct {
	connection
	wait seconds
}

func newConn() *cobra.Command {
	var c conn
	cmd := &cobra.Command{
		Use:   "conn",
		Short: "Connect, and stay connected",
		Long: `Connect, tell so, and stay connected until interrupted, or as -W says. Whatever ends the connection for good is the
error. A server refuses here whom it would refuse elsewhere, and -d shows its CONNACK.`,
		Example: `  petrel conn --url mqtts://broker.example.com -u me --password-file secret -d
  petrel conn -W 0.1`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd) },
	}
	cmd.Flags().SortFlags = false
	g := newGroup("Staying")
	g.VarP(&c.wait, "wait", "W", "disconnect after this time")
	g.addTo(cmd)
	c.addTo(cmd)
	return cmd
}

func (c *conn) run(cmd *cobra.Command) error {
	client, err := c.connect(cmd, "")
	if err != nil {
		return err
	}
	defer client.Close()
	c.logger.Info("connected", "client", client.ClientID())
	enough := (<-chan time.Time)(nil)
	if c.wait > 0 {
		enough = time.After(time.Duration(c.wait))
	}
	select {
	case <-client.Done():
		return client.Err()
	case <-enough:
	case <-cmd.Context().Done():
	}
	return client.finish(context.WithoutCancel(cmd.Context()))
}
