package broker

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
)

// serverTLS reads the certificates of a listener.
func serverTLS(l Listener, log *slog.Logger) (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(l.CertFile, l.KeyFile)
	if err != nil {
		return nil, l.errorf("certfile and keyfile: %v", err)
	}
	c := &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}
	if l.Type == "ws" {
		c.NextProtos = []string{"http/1.1"}
	}
	if c.ClientCAs, err = authorities(l, log); err != nil {
		return nil, err
	}
	switch {
	case l.RequireCertificate && c.ClientCAs == nil:
		return nil, l.errorf("require-certificate: there is no authority to check certificates against")
	case l.RequireCertificate:
		c.ClientAuth = tls.RequireAndVerifyClientCert
	case c.ClientCAs != nil:
		c.ClientAuth = tls.VerifyClientCertIfGiven
	}
	return c, nil
}

// authorities collects those that the certificates of clients are checked against; nil means that there are none.
func authorities(l Listener, log *slog.Logger) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if l.CAFile != "" {
		pem, err := os.ReadFile(l.CAFile)
		if err != nil {
			return nil, l.errorf("cafile: %v", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, l.errorf("cafile: %s holds no PEM certificate", l.CAFile)
		}
	}
	if l.CAData != "" && !pool.AppendCertsFromPEM([]byte(l.CAData)) {
		return nil, l.errorf("cadata: is no PEM certificate")
	}
	if l.CAPath != "" {
		if err := addFolder(pool, l.CAPath); err != nil {
			// OpenSSL, and so HBMQTT, does not mind, which HBMQTT's manual relies on: its examples have a capath of
			// "certificate data".
			log.Warn("capath is left out", "listener", l.Name, "error", err)
		}
	}
	if pool.Equal(x509.NewCertPool()) {
		return nil, nil
	}
	return pool, nil
}

func addFolder(pool *x509.CertPool, folder string) error {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	found := false
	for _, e := range entries {
		if pem, err := os.ReadFile(filepath.Join(folder, e.Name())); err == nil && pool.AppendCertsFromPEM(pem) {
			found = true
		}
	}
	if !found {
		return fmt.Errorf("%s holds no PEM certificate", folder)
	}
	return nil
}

// listenError says what to do when an address cannot be had.
func listenError(l Listener, err error) error {
	advice := "is it an address of this machine?"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		advice = "another program listens there; stop it, or bind another port"
	case errors.Is(err, os.ErrPermission):
		advice = "ports below 1024 need privileges; bind another"
	}
	return l.errorf("bind: cannot listen on %s: %s (%v)", l.Bind, advice, cause(err))
}

// cause returns the error of the operating system in err, which repeats less.
func cause(err error) error {
	var number syscall.Errno
	if errors.As(err, &number) {
		return number
	}
	return err
}
