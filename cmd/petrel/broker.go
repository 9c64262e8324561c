package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/petrel-mqtt/mqtt/broker"
)

// serve is the command that runs a broker.
type serve struct {
	configFile string
	bind       []string
	check      bool
	log        logFlags
}

// goodbye is how long clients have to be disconnected in.
const goodbye = 10 * time.Second

func newBroker() *cobra.Command {
	var s serve
	cmd := &cobra.Command{
		Use:   "broker [-c FILE]",
		Short: "Run a broker",
		Long: `Run a broker for MQTT 5.0 and 3.1.1 until interrupted.

Without a configuration file it listens on port 1883 of the loopback interface, for clients of this machine, whoever they
are, and updates the topics under $SYS every 20 seconds. Other interfaces must be asked for. A configuration file is in
YAML with HBMQTT's keys: docs/broker.md has them all.

SIGHUP makes it read passwords, the ACL and certificates again. "petrel passwd" makes password files.

The exit code is 2 if the configuration or a file that it names is wrong, 1 if the broker cannot start for another reason,
as when another program has the address.`,
		Example: `  petrel broker
  petrel broker --bind 0.0.0.0:1883
  petrel broker -c /etc/petrel.yaml
  petrel broker -c /etc/petrel.yaml --check`,
		Version: version(),
		Args:    noArguments,
		RunE:    func(cmd *cobra.Command, _ []string) error { return s.run(cmd) },
	}
	cmd.SetVersionTemplate("petrel broker {{.Version}}\n")
	cmd.Flags().SortFlags = false
	g := newGroup("Broker")
	g.StringVarP(&s.configFile, "config", "c", "", "read this YAML `FILE`")
	g.StringArrayVar(&s.bind, "bind", nil, "listen at this `ADDRESS`, as in 0.0.0.0:1883 (repeat); not with -c")
	g.BoolVar(&s.check, "check", false, "only check the configuration, its files and addresses")
	g.addTo(cmd)
	s.log.group().addTo(cmd)
	cmd.AddCommand(newSessions(), newRetained())
	return cmd
}

func (s *serve) run(cmd *cobra.Command) error {
	logger, err := s.log.loggerFrom(slog.LevelInfo, cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	config, err := s.config()
	if err != nil {
		return &exitError{exitUsage, err}
	}
	config.Logger = logger
	b, err := broker.New(config)
	if err != nil {
		return &exitError{exitUsage, err}
	}
	if s.check {
		return startError(b.Check())
	}
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	if err := b.Start(cmd.Context()); err != nil {
		return startError(err)
	}
	for {
		select {
		case <-hangups:
			if err := b.Reload(); err != nil {
				logger.Error("nothing was read again", "because", err)
			}
		case <-cmd.Context().Done():
			ctx, cancel := context.WithTimeout(context.Background(), goodbye)
			defer cancel()
			return b.Shutdown(ctx)
		}
	}
}

// startError tells mistakes in the configuration from what may be otherwise the next time.
func startError(err error) error {
	var file *broker.FileError
	if errors.As(err, &file) {
		return &exitError{exitUsage, err}
	}
	return err
}

// config returns the configuration of the file, or what there is without one.
func (s *serve) config() (broker.Config, error) {
	switch {
	case s.configFile != "" && s.bind != nil:
		return broker.Config{}, errors.New("--bind and -c exclude each other: the file names the listeners")
	case s.configFile != "":
		return broker.ReadConfig(s.configFile)
	}
	config := broker.DefaultConfig()
	for i, address := range s.bind {
		l := broker.Listener{Name: fmt.Sprint("bind ", i+1), Bind: address, Type: "tcp"}
		config.Listeners = append(config.Listeners[:i], l)
	}
	return config, nil
}
