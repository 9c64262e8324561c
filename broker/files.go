package broker

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// FileError says that a file which the configuration names is missing or wrong. To start again will not help.
type FileError struct{ Err error }

func (e *FileError) Error() string { return e.Err.Error() }
func (e *FileError) Unwrap() error { return e.Err }

// files is what is read from those that the configuration names.
type files struct {
	passwords *Passwords
	acl       *acl
	tls       []*tls.Config // by listener
}

// load reads the files, and puts them into force if all are right.
func (b *Broker) load() error {
	f, err := b.read()
	if err != nil {
		return err
	}
	for i, l := range b.listeners {
		l.tls.Store(f.tls[i])
	}
	b.warn(b.warnings(f))
	b.passwords.Store(f.passwords)
	b.door.forget()
	b.acl.Store(f.acl)
	return nil
}

func (b *Broker) read() (f files, err error) {
	auth := b.config.Auth
	if auth.PasswordFile != "" {
		if f.passwords, err = ReadPasswords(auth.PasswordFile); err != nil {
			return f, &FileError{fmt.Errorf("password-file: %w", err)}
		}
	}
	switch {
	case auth.Topics != nil:
		f.acl = newACL(auth.Topics)
	case auth.ACLFile != "":
		if f.acl, err = readACL(auth.ACLFile); err != nil {
			return f, &FileError{fmt.Errorf("acl-file: %w", err)}
		}
	}
	for _, l := range b.config.Listeners {
		var config *tls.Config
		if l.SSL {
			if config, err = serverTLS(l, b.log); err != nil {
				return f, &FileError{err}
			}
		}
		f.tls = append(f.tls, config)
	}
	return f, nil
}

// Check looks for what would keep Start from success: it reads the files that the configuration names, and listens for an
// instant. It returns the first mistake, a *FileError if it is in a file, and logs what Start would warn of. A broker with
// this configuration may run meanwhile: an address or a persistence file that is in use is only a warning.
func (b *Broker) Check() error {
	b.warn(b.config.Warnings)
	f, err := b.read()
	if err != nil {
		return err
	}
	b.warn(b.warnings(f))
	switch busy, err := checkStore(b.config.PersistenceFile); {
	case err != nil:
		return err
	case busy:
		b.log.Warn("the persistence file is in use, which is right if this broker runs", "file", b.config.PersistenceFile)
	}
	return b.checkAddresses()
}

// checkFolder looks whether there is a folder for the persistence file.
func checkFolder(path string) error {
	info, err := os.Stat(filepath.Dir(path))
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	if err != nil {
		return &FileError{fmt.Errorf("persistence-file: %w", err)}
	}
	return nil
}

// checkAddresses listens at all addresses together, because they may exclude each other.
func (b *Broker) checkAddresses() error {
	listeners := b.config.Listeners
	if bind := b.config.MetricsBind; bind != "" {
		listeners = append(slices.Clip(listeners), metricsListener(bind))
	}
	for _, l := range listeners {
		s, err := new(net.ListenConfig).Listen(b.ctx, l.network(), l.Bind)
		switch {
		case err == nil:
			defer s.Close()
		case errors.Is(err, syscall.EADDRINUSE):
			b.log.Warn("the address is taken, which is right if this broker runs", "listener", l.Name, "bind", l.Bind)
		default:
			return listenError(l, err)
		}
	}
	return nil
}

func (b *Broker) warn(warnings []string) {
	for _, w := range warnings {
		b.log.Warn(w)
	}
}

// warnings returns what is right in the files, and yet hardly meant.
func (b *Broker) warnings(f files) (list []string) {
	if f.acl == nil {
		return nil
	}
	checked := f.passwords != nil || !b.config.Auth.AllowAnonymous ||
		slices.ContainsFunc(b.plugins, func(p Plugin) bool { return p.Authenticate != nil }) ||
		!slices.ContainsFunc(b.config.Listeners, func(l Listener) bool { return !l.UseIdentityAsUsername })
	if !checked && f.acl.namesUsers() {
		list = append(list, "auth: there are rules for user names, which nobody checks without a password-file: every client can take any of them")
	}
	if f.passwords == nil || !f.acl.hasPattern("%u") {
		return list
	}
	for _, user := range f.passwords.Users() {
		if !substitutable(user) {
			list = append(list, fmt.Sprintf("auth: no pattern with %%u allows user %q anything, because of the +, # or / in the name; give this user topic lines", user))
			break // one is enough to find the others
		}
	}
	return list
}
