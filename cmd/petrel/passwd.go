package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/petrel-mqtt/mqtt/broker"
)

// passwd is the command that changes password files.
type passwd struct {
	create, remove bool
	scheme         choice
}

func newPasswd() *cobra.Command {
	var schemes []string
	for _, s := range broker.Schemes() {
		schemes = append(schemes, string(s))
	}
	p := passwd{scheme: choice{schemes[0], schemes}}
	cmd := &cobra.Command{
		Use:   "passwd [-c | -D] FILE USER",
		Short: "Change a password file of petrel broker",
		Long: `Add a user to a password file, change the user's password, or delete the user.

The password is asked for at the terminal, or is the first line of standard input. The file is replaced in one step, and
keeps its owner and mode. A broker that runs takes it when it gets SIGHUP.

Mosquitto reads pbkdf2 ($7$), and HBMQTT sha512-crypt ($6$). bcrypt takes passwords of at most 72 bytes, the others of at
most 1,024.`,
		Example: `  petrel passwd -c /etc/petrel.passwd alice
  petrel passwd /etc/petrel.passwd bob < secret
  petrel passwd -D /etc/petrel.passwd alice`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usagef("name a password file and a user")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return p.run(cmd, args[0], args[1]) },
	}
	cmd.Flags().SortFlags = false
	g := newGroup("Password file")
	g.BoolVarP(&p.create, "create", "c", false, "make the file, which must not exist")
	g.BoolVarP(&p.remove, "delete", "D", false, "delete the user")
	g.Var(&p.scheme, "scheme", "how to hash")
	g.addTo(cmd)
	return cmd
}

func (p *passwd) run(cmd *cobra.Command, file, user string) error {
	if p.create && p.remove {
		return usagef("-c and -D exclude each other: give one")
	}
	passwords, err := p.open(file)
	if err != nil {
		return err
	}
	if p.remove {
		if !passwords.Delete(user) {
			return fmt.Errorf("there is no user %s in %s", user, file)
		}
		return passwords.Write(file)
	}
	password, err := readPassword(cmd, user)
	if err != nil {
		return err
	}
	hash, err := broker.NewHash(broker.Scheme(p.scheme.word), password)
	if err != nil {
		return err
	}
	if err := passwords.Set(user, hash); err != nil {
		return err
	}
	return passwords.Write(file)
}

// open reads the file, or makes sure that there is none.
func (p *passwd) open(file string) (*broker.Passwords, error) {
	if !p.create {
		passwords, err := broker.ReadPasswords(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no file %s: -c makes it", file)
		}
		return passwords, err
	}
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s exists: leave out -c to change it", file)
	}
	return broker.ParsePasswords(nil)
}

// readPassword asks for a password, twice, or takes it from standard input if that is not a terminal.
func readPassword(cmd *cobra.Command, user string) ([]byte, error) {
	if !isTerminal(cmd.InOrStdin()) {
		line, err := bufio.NewReader(cmd.InOrStdin()).ReadBytes('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		return bytes.TrimRight(line, "\r\n"), nil
	}
	first, err := ask(cmd, "Password for "+user+": ")
	if err != nil {
		return nil, err
	}
	second, err := ask(cmd, "Again: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, second) {
		return nil, errors.New("the passwords differ")
	}
	return first, nil
}

// ask prompts for a line that is not shown.
func ask(cmd *cobra.Command, prompt string) ([]byte, error) {
	terminal := int(cmd.InOrStdin().(*os.File).Fd())
	shown, err := term.GetState(terminal)
	if err != nil {
		return nil, err
	}
	// Nothing ends a read from a terminal, so Ctrl-C ends the program, which must not leave the terminal mute.
	stop := context.AfterFunc(cmd.Context(), func() {
		term.Restore(terminal, shown)
		os.Exit(exitInterrupted)
	})
	defer stop()
	fmt.Fprint(cmd.ErrOrStderr(), prompt)
	line, err := term.ReadPassword(terminal)
	fmt.Fprintln(cmd.ErrOrStderr())
	return line, err
}
