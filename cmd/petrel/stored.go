package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/petrel-mqtt/mqtt/broker"
)

// stored is a command that shows what a persistence file holds.
type stored struct {
	configFile string
	json       bool
}

func newStored(use, what, example string, show func(w io.Writer, of *broker.Stored) error, list func(of *broker.Stored) []any) *cobra.Command {
	var s stored
	cmd := &cobra.Command{
		Use:   use + " -c FILE",
		Short: "Show the " + what + " in a persistence file",
		Long: `Show the ` + what + ` in the persistence file that a configuration file names. It changes nothing.

The broker must not run: it has the file to itself.`,
		Example: example,
		Args:    noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			of, err := s.read()
			if err != nil {
				return err
			}
			if !s.json {
				return show(cmd.OutOrStdout(), of)
			}
			e := json.NewEncoder(cmd.OutOrStdout())
			for _, item := range list(of) {
				if err := e.Encode(item); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().SortFlags = false
	g := newGroup("Persistence file")
	g.StringVarP(&s.configFile, "config", "c", "", "the broker's YAML `FILE`")
	g.BoolVar(&s.json, "json", false, "write a JSON object per line")
	g.addTo(cmd)
	return cmd
}

func (s *stored) read() (*broker.Stored, error) {
	if s.configFile == "" {
		return nil, usagef("-c is missing: name the broker's configuration file")
	}
	config, err := broker.ReadConfig(s.configFile)
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	if config.PersistenceFile == "" {
		return nil, &exitError{exitUsage, errors.New(s.configFile + " names no persistence-file")}
	}
	of, err := broker.ReadStored(config.PersistenceFile)
	return of, startError(err)
}

func newSessions() *cobra.Command {
	return newStored("sessions", "sessions", `  petrel broker sessions -c /etc/petrel.yaml
  petrel broker sessions -c /etc/petrel.yaml --json | jq .client_id`, showSessions, func(of *broker.Stored) (list []any) {
		for _, s := range of.Sessions {
			list = append(list, s)
		}
		return list
	})
}

func newRetained() *cobra.Command {
	return newStored("retained", "retained messages", `  petrel broker retained -c /etc/petrel.yaml
  petrel broker retained -c /etc/petrel.yaml --json | jq -r .topic`, showRetained, func(of *broker.Stored) (list []any) {
		for _, m := range of.Retained {
			list = append(list, m)
		}
		return list
	})
}

func showSessions(w io.Writer, of *broker.Stored) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "CLIENT\tUSER\tMESSAGES\tBYTES\tENDS\tSUBSCRIPTIONS")
	for i := range of.Sessions {
		s := &of.Sessions[i]
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t", quotedIfOdd(s.ClientID), quotedIfOdd(s.Username), s.Messages, s.Bytes, ends(s))
		for i, sub := range s.Subscriptions {
			if i > 0 {
				fmt.Fprint(t, " ")
			}
			fmt.Fprintf(t, "%s:%d", quotedIfOdd(sub.Filter), sub.QoS)
		}
		fmt.Fprintln(t)
	}
	return t.Flush()
}

// ends says when a session does.
func ends(s *broker.StoredSession) string {
	switch {
	case s.Ends != nil:
		return s.Ends.Format(time.DateTime)
	case s.Expiry != nil:
		return "after " + (time.Duration(*s.Expiry) * time.Second).String()
	}
	return "never"
}

func showRetained(w io.Writer, of *broker.Stored) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "TOPIC\tQOS\tBYTES\tEXPIRES\tPAYLOAD")
	for i := range of.Retained {
		m := &of.Retained[i]
		expires := "never"
		if m.Expires != nil {
			expires = m.Expires.Format(time.DateTime)
		}
		shown, more := m.Payload, ""
		if len(shown) > 40 {
			shown, more = shown[:40], "…"
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s%s\n", quotedIfOdd(m.Topic), m.QoS, len(m.Payload), expires, quotedIfOdd(string(shown)), more)
	}
	return t.Flush()
}

// quotedIfOdd returns a text that cannot be mistaken for something else, nor do anything to a terminal.
func quotedIfOdd(text string) string {
	if text == "" {
		return "-"
	}
	for _, r := range text {
		if !strconv.IsPrint(r) || r == '\uFFFD' || r == ' ' {
			return strconv.Quote(text)
		}
	}
	return text
}
