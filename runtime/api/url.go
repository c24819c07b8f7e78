package api

import (
	"net/url"
	"strings"
)

// ParseURL parses the URL of a database: what net/url takes, and also several hosts with ports of their own, as libpq and
// JDBC have them (all in Host), and "jdbc:" ahead. Its errors may quote a password.
func ParseURL(text string) (*url.URL, error) {
	text = strings.TrimPrefix(text, "jdbc:")
	u, err := url.Parse(text)
	if err == nil {
		return u, nil
	}
	scheme, rest, ok := strings.Cut(text, "://")
	end := strings.IndexAny(rest, "/?#")
	if end < 0 {
		end = len(rest)
	}
	at := strings.LastIndexByte(rest[:end], '@') + 1
	hosts := rest[at:end]
	if !ok || !strings.Contains(hosts, ",") || strings.ContainsAny(hosts, " %\\\"<>") {
		return nil, err
	}
	if u, err = url.Parse(scheme + "://" + rest[:at] + "several" + rest[end:]); err != nil {
		return nil, err
	}
	u.Host = hosts
	return u, nil
}
