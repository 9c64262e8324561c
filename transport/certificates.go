package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Certificates says where the certificates of a TLS connection are, in PEM form. The zero value adds none.
type Certificates struct {
	// CAFile is a file of certificates, or a folder of such files, that the server's certificate must go back to;
	// CAData is the same in memory. Given together they add up.
	CAFile string
	CAData []byte

	// CertFile and KeyFile hold the client's certificate and its key; with an empty KeyFile the one file has both.
	// CertData and KeyData are the same in memory, and do not count if there is a CertFile.
	CertFile, KeyFile string
	CertData, KeyData []byte
}

// Apply reads the certificates and puts them into config: CAs in place of its RootCAs, the client's certificate in place
// of its Certificates.
func (c *Certificates) Apply(config *tls.Config) error {
	if c.CAFile != "" || len(c.CAData) > 0 {
		roots, err := c.roots()
		if err != nil {
			return fmt.Errorf("CA certificates: %w", err)
		}
		config.RootCAs = roots
	}
	if c.CertFile != "" || len(c.CertData) > 0 {
		own, err := c.own()
		if err != nil {
			return fmt.Errorf("client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{own}
		config.GetClientCertificate = nil // which would win
	}
	return nil
}

func (c *Certificates) roots() (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	if len(c.CAData) > 0 && !roots.AppendCertsFromPEM(c.CAData) {
		return nil, errors.New("the data has none in PEM form")
	}
	if c.CAFile == "" {
		return roots, nil
	}
	files, err := filesOf(c.CAFile)
	if err != nil {
		return nil, err
	}
	found := false
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		found = roots.AppendCertsFromPEM(data) || found
	}
	if !found {
		return nil, fmt.Errorf("%s has none in PEM form", c.CAFile)
	}
	return roots, nil
}

// filesOf returns the files in a folder, or the file itself.
func filesOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, entry := range entries {
		file := filepath.Join(path, entry.Name()) // often a symbolic link
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			files = append(files, file)
		}
	}
	return files, nil
}

func (c *Certificates) own() (tls.Certificate, error) {
	switch {
	case c.CertFile == "":
		return tls.X509KeyPair(c.CertData, c.KeyData)
	case c.KeyFile == "":
		return tls.LoadX509KeyPair(c.CertFile, c.CertFile)
	}
	return tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
}
