package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/petrel-mqtt/mqtt"
	"github.com/petrel-mqtt/mqtt/boltstore"
)

func newOutbox() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "outbox COMMAND",
		Short: "Show and mend the store of a client",
		Long: `Show and mend the file of the module boltstore in which a client keeps its messages, such as petrel bridge. The client must
not run: it has the file to itself.`,
		Args: noSuchCommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newOutboxList(), newOutboxDrop())
	return cmd
}

func newOutboxList() *cobra.Command {
	asJSON := false
	cmd := &cobra.Command{
		Use:   "list FILE",
		Short: "Show the messages in a store",
		Long: `Show the messages in a store, and what became of messages that are gone. It changes nothing. The states are:

  waiting    it was not sent
  sent       it was sent, and the server has not answered: it may have it
  delivered  the server has taken it
  failed     it is a dead letter, and nobody tries to send it: the error
             says why`,
		Example: `  petrel outbox list /var/lib/billing/outgoing.db
  petrel outbox list outgoing.db --json | jq 'select(.state == "failed")'`,
		Args: oneFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withStore(args[0], func(s mqtt.Store) error {
				contents, err := mqtt.ReadStore(cmd.Context(), s)
				switch {
				case err != nil:
					return err
				case asJSON:
					return listJSON(cmd.OutOrStdout(), contents)
				}
				return listText(cmd.OutOrStdout(), contents)
			})
		},
	}
	g := newGroup("Output")
	g.BoolVar(&asJSON, "json", false, "write a JSON object per line, with the payload in base64")
	g.addTo(cmd)
	return cmd
}

// drop is the command that removes messages from a store.
type drop struct {
	names       []string
	all, failed bool
}

func newOutboxDrop() *cobra.Command {
	var d drop
	cmd := &cobra.Command{
		Use:   "drop FILE (NUMBER… | --name NAME… | --failed | --all)",
		Short: "Remove messages from a store",
		Long: `Remove messages from a store, by the numbers and names that "petrel outbox list" shows. They are lost. One that was sent may
be delivered in spite of that. If one of them is not there, nothing is removed.`,
		Example: `  petrel outbox drop outgoing.db 17 18
  petrel outbox drop outgoing.db --failed`,
		Args: atLeastAFile,
		RunE: func(cmd *cobra.Command, args []string) error { return d.run(cmd, args) },
	}
	cmd.Flags().SortFlags = false
	g := newGroup("Messages")
	g.StringArrayVar(&d.names, "name", nil, "remove the messages with this `NAME`, which the application has given them (repeat)")
	g.BoolVar(&d.failed, "failed", false, "remove all dead letters")
	g.BoolVar(&d.all, "all", false, "remove everything")
	g.addTo(cmd)
	return cmd
}

func (d *drop) run(cmd *cobra.Command, args []string) error {
	numbers, err := parseNumbers(args[1:])
	if err != nil {
		return err
	}
	ways := 0
	for _, given := range []bool{len(numbers)+len(d.names) > 0, d.failed, d.all} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return usagef("what to remove: give numbers or --name, or --failed, or --all")
	}
	return withStore(args[0], func(s mqtt.Store) error {
		contents, err := mqtt.ReadStore(cmd.Context(), s)
		if err != nil {
			return err
		}
		chosen, err := d.choose(contents, numbers)
		if err != nil {
			return err
		}
		n, err := mqtt.DropStored(cmd.Context(), s, chosen...)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d removed\n", n)
		return err
	})
}

// choose returns the numbers of the messages to remove.
func (d *drop) choose(c *mqtt.StoreContents, numbers []uint64) (chosen []uint64, err error) {
	foundNumbers, foundNames := map[uint64]bool{}, map[string]bool{}
	for _, m := range messagesIn(c) {
		foundNumbers[m.Number], foundNames[m.Name] = true, true
		switch {
		case d.all, d.failed && stateOf(m) == "failed",
			slices.Contains(numbers, m.Number), m.Name != "" && slices.Contains(d.names, m.Name):
			chosen = append(chosen, m.Number)
		}
	}
	for _, n := range numbers {
		if !foundNumbers[n] {
			err = errors.Join(err, fmt.Errorf("the store has no message %d", n))
		}
	}
	for _, name := range d.names {
		if name == "" || !foundNames[name] {
			err = errors.Join(err, fmt.Errorf("the store has no message with the name %q", name))
		}
	}
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return chosen, nil
}

func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usagef("%q is not expected: name one file", args[1])
	}
	return atLeastAFile(cmd, args)
}

func atLeastAFile(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("which store: name its file")
	}
	return nil
}

func parseNumbers(words []string) (numbers []uint64, err error) {
	for _, word := range words {
		n, err := strconv.ParseUint(word, 10, 64)
		if err != nil || n == 0 {
			return nil, usagef("%q is no number of a message: \"petrel outbox list\" shows them", word)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

// withStore opens a store that is there: a new one would have nothing to show.
func withStore(path string, f func(mqtt.Store) error) error {
	info, err := os.Stat(path)
	if err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		err = &fs.PathError{Op: "read", Path: path, Err: errors.New("the file is empty")}
	}
	if err != nil {
		return &exitError{exitUsage, err}
	}
	s, err := boltstore.Open(path)
	switch {
	case errors.Is(err, mqtt.ErrStoreInUse):
		return fmt.Errorf("%s is in use; stop the client whose store it is, and start it again afterwards", path)
	case errors.Is(err, mqtt.ErrStoreForeign):
		return &exitError{exitUsage, err}
	case err != nil:
		return err
	}
	return errors.Join(f(s), s.Close())
}

// messagesIn returns those whose fate is known, and then those that are outstanding.
func messagesIn(c *mqtt.StoreContents) (all []*mqtt.StoredMessage) {
	for _, list := range [][]mqtt.StoredMessage{c.Outcomes, c.Outstanding} {
		for i := range list {
			all = append(all, &list[i])
		}
	}
	return all
}

// stateOf is the word for how far a message has come.
func stateOf(m *mqtt.StoredMessage) string {
	switch {
	case m.Outcome != nil && m.Outcome.Err != nil:
		return "failed"
	case m.Outcome != nil:
		return "delivered"
	case m.Sent:
		return "sent"
	}
	return "waiting"
}

func listText(w io.Writer, c *mqtt.StoreContents) error {
	fmt.Fprintf(w, "client %s, server %s: %d outstanding, %d outcomes\n",
		quotedIfOdd(c.ClientID), quotedIfOdd(c.Server), len(c.Outstanding), len(c.Outcomes))
	all := messagesIn(c)
	if len(all) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NUMBER\tSTATE\tQOS\tBYTES\tEXPIRES\tTOPIC\tNAME\tERROR")
	for _, m := range all {
		size, expires := fmt.Sprint(len(m.Message.Payload)), "never"
		if stateOf(m) == "delivered" {
			size = "-" // the payload is not kept
		}
		if !m.Expires.IsZero() {
			expires = m.Expires.Format(time.DateTime)
		}
		fmt.Fprintf(t, "%d\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", m.Number, stateOf(m), m.Message.QoS, size, expires,
			quotedIfOdd(m.Message.Topic), quotedIfOdd(m.Name), quotedIfOdd(failureOf(m)))
	}
	return t.Flush()
}

// failureOf is the error of a dead letter.
func failureOf(m *mqtt.StoredMessage) string {
	if m.Outcome == nil || m.Outcome.Err == nil {
		return ""
	}
	return plain(m.Outcome.Err)
}

// listedMessage is a message as JSON.
type listedMessage struct {
	Number  uint64     `json:"number"`
	State   string     `json:"state"`
	Name    string     `json:"name,omitempty"`
	Topic   string     `json:"topic"`
	QoS     int        `json:"qos"`
	Retain  bool       `json:"retain,omitempty"`
	Payload []byte     `json:"payload"`
	Expires *time.Time `json:"expires,omitempty"`
	Time    *time.Time `json:"time,omitempty"` // when it was delivered or has failed
	Error   string     `json:"error,omitempty"`
}

func listJSON(w io.Writer, c *mqtt.StoreContents) error {
	e := json.NewEncoder(w)
	for _, m := range messagesIn(c) {
		line := listedMessage{
			Number: m.Number, State: stateOf(m), Name: m.Name, Topic: m.Message.Topic, QoS: int(m.Message.QoS), Retain: m.Message.Retain,
			Payload: m.Message.Payload, Error: failureOf(m),
		}
		if !m.Expires.IsZero() {
			line.Expires = &m.Expires
		}
		if m.Outcome != nil {
			line.Time = &m.Outcome.Time
		}
		if err := e.Encode(line); err != nil {
			return err
		}
	}
	return nil
}
