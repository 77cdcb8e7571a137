package config

import (
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// badURL says what is wrong with s as the URL of a server, or nothing. It
// never shows user names, passwords or queries.
func badURL(s string, query bool) string {
	if !strings.HasPrefix(s, "http://") && !strings.HasPrefix(s, "https://") {
		return showURL(s) + " must begin with http:// or https://"
	}
	u, err := url.Parse(s)
	if err != nil {
		return showURL(s) + " is not a URL"
	}
	switch {
	case u.User != nil:
		return "must not hold a user name or password"
	case !query && (u.RawQuery != "" || u.ForceQuery):
		return "must not hold a query"
	case strings.Contains(s, "#"):
		return "must not hold a fragment"
	case !isHost(u.Hostname()):
		return showURL(s) + " has no host that can be looked up"
	case strings.HasSuffix(u.Host, ":") || !isPort(u.Port()):
		return showURL(s) + " has no port between 1 and 65535"
	}
	if p := strings.TrimSuffix(u.Path, "/"); p != "" && path.Clean(p) != p {
		return showURL(s) + " has a path with . or .. or // in it"
	}
	return ""
}

// isHost accepts IP addresses and what may stand in a host name; container
// networks have names with an underscore.
func isHost(s string) bool {
	if strings.Contains(s, ":") {
		addr, err := netip.ParseAddr(s)
		return err == nil && addr.Zone() == ""
	}
	for _, c := range s {
		if !(c == '.' || c == '-' || c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return false
		}
	}
	return s != ""
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return s == "" || err == nil && n > 0
}

// showURL quotes s for a message unless a password or a token may be in it.
func showURL(s string) string {
	if strings.ContainsAny(s, "@?") {
		return "the URL"
	}
	return quote(s)
}

// isOrigin accepts scheme://host[:port] (RFC 6454, section 6.2).
func isOrigin(s string) bool {
	u, err := url.Parse(s)
	return err == nil && badURL(s, false) == "" && u.Path == ""
}

// isToken accepts the name of a header field (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for _, c := range s {
		if c <= ' ' || c > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c) {
			return false
		}
	}
	return s != ""
}

// matches tells whether name fits a pattern in which * stands for any
// characters and ? for one.
func matches(pattern, name string) bool {
	p, n := []rune(pattern), []rune(name)
	star, mark := -1, 0 // the last star, and where in n it stopped eating
	i, j := 0, 0
	for j < len(n) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == n[j]):
			i, j = i+1, j+1
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}
