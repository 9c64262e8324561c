package transport

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// secrets is what a request contains that no error may show. Servers and proxies like to repeat the request in their
// refusal.
type secrets []string

// shortestSecret is the length in bytes of the shortest value that is hidden. To hide shorter ones would make texts
// unreadable, and they protect nothing.
const shortestSecret = 4

// secretsOf returns what must not be shown of a request: the query, its values, and the values of the header.
func secretsOf(u *url.URL, header http.Header) secrets {
	var s secrets
	s.add(u.RawQuery)
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		_, value, _ := strings.Cut(pair, "=")
		s.add(value)
		if plain, err := url.QueryUnescape(value); err == nil {
			s.add(plain)
		}
	}
	for _, values := range header {
		for _, value := range values {
			s.add(value)
			if _, token, ok := strings.Cut(value, " "); ok { // the scheme of Authorization comes before the secret
				s.add(token)
			}
		}
	}
	return s
}

func (s *secrets) add(value string) {
	if len(value) >= shortestSecret {
		*s = append(*s, value)
	}
}

// hide returns text with every secret replaced.
func (s secrets) hide(text string) string {
	for _, secret := range s {
		text = strings.ReplaceAll(text, secret, "***")
	}
	return text
}

// hideCut returns text with every secret replaced, and without the beginning of one at its end: text may have been cut.
func (s secrets) hideCut(text string) string {
	text = s.hide(text)
	for _, secret := range s {
		for n := len(secret) - 1; n >= shortestSecret; n-- {
			if strings.HasSuffix(text, secret[:n]) {
				return strings.TrimSuffix(text, secret[:n])
			}
		}
	}
	return text
}

// hideError returns err, or an error with the same text without the secrets if err shows any.
func (s secrets) hideError(err error) error {
	if text := s.hide(err.Error()); text != err.Error() {
		return errors.New(text)
	}
	return err
}

// hideHeader returns a copy of a header with every secret replaced in its values.
func (s secrets) hideHeader(header http.Header) http.Header {
	hidden := header.Clone()
	for _, values := range hidden {
		for i := range values {
			values[i] = s.hide(values[i])
		}
	}
	return hidden
}

// refusal makes the error of an answer that refuses a request to u.
func (s secrets) refusal(u *url.URL, response *http.Response, body []byte) *UpgradeError {
	return &UpgradeError{
		URL:        Redact(u),
		StatusCode: response.StatusCode,
		Header:     s.hideHeader(response.Header),
		Body:       []byte(s.hideCut(string(body))),
	}
}
