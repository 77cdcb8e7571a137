package config

import (
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"
)

// checkListeners wants every listener to have an address that it can have, and
// no two the same.
func (c *Config) checkListeners() {
	r, m, a := c.origin.report, c.Metrics, c.Admin
	if name, ok := strings.CutPrefix(c.Listen, "systemd:"); ok {
		if name == "" || strings.ContainsAny(name, ": ") {
			r.fault("listen", "%s has no name of a socket; write for example systemd:http, or systemd for the first one", quote(c.Listen))
		}
	} else if c.Listen != "systemd" {
		r.listener("listen", c.Listen)
	}
	for _, own := range []struct{ key, address, what string }{
		{"metrics.listen", m.Listen, "metrics"},
		{"admin.listen", a.Listen, "the API"},
	} {
		if own.address == "" {
			continue
		}
		r.listener(own.key, own.address)
		if sameAddress(own.address, c.Listen) {
			r.fault(own.key, "is the address of the main listener; leave it out to serve %s there", own.what)
		}
	}
	if m.Listen != "" && sameAddress(m.Listen, a.Listen) {
		r.fault("admin.listen", "is the address of metrics.listen")
	}
	switch {
	case c.ListenMode&0o600 != 0o600:
		r.fault("listen_mode", "must let the owner read and write, else not even the gateway's user could connect; write for example \"0660\"")
	case c.ListenMode != Default().ListenMode && !isUnix(c.Listen) && !isUnix(m.Listen) && !isUnix(a.Listen):
		r.fault("listen_mode", "is of use with a unix socket only; write for example listen: unix:/run/llmproxy/llmproxy.sock")
	}
}

// listener wants host:port or unix:/path.
func (r *report) listener(key, s string) {
	const most = 103 // bytes in sun_path, without the last NUL, where it is shortest (macOS)
	file, ok := strings.CutPrefix(s, "unix:")
	switch {
	case !ok:
		r.address(key, s)
	case !strings.HasPrefix(file, "/") || path.Clean(file) != file || file == "/":
		r.fault(key, "%s is not unix: and an absolute path; write for example unix:/run/llmproxy/llmproxy.sock", quote(s))
	case len(file) > most:
		r.fault(key, "the path of a unix socket has at most %d bytes, not %d", most, len(file))
	}
}

// address wants host:port with a port in numbers.
func (r *report) address(key, s string) {
	if _, _, ok := splitAddress(s); !ok {
		r.fault(key, "%s is not an address; write host:port, for example 127.0.0.1:8000 or :8000", quote(s))
	}
}

func isUnix(address string) bool { return strings.HasPrefix(address, "unix:") }

// splitAddress reads host:port with a port in numbers.
func splitAddress(s string) (host string, port uint64, ok bool) {
	host, digits, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsAny(s, " /@") {
		return "", 0, false
	}
	port, err = strconv.ParseUint(digits, 10, 16)
	return host, port, err == nil
}

// sameAddress tells whether two listeners cannot have the addresses a and b:
// one path; or one port, and hosts that are equal or one of which is every
// address. Each listener on port 0 is given a port of its own.
func sameAddress(a, b string) bool {
	if isUnix(a) || isUnix(b) {
		return a == b
	}
	hostA, portA, okA := splitAddress(a)
	hostB, portB, okB := splitAddress(b)
	if !okA || !okB || portA != portB || portA == 0 {
		return false
	}
	hostA, hostB = canonicalHost(hostA), canonicalHost(hostB)
	return hostA == hostB || hostA == "" || hostB == ""
}

// canonicalHost makes equal hosts to listen on equal strings. The unspecified
// address of either family is the empty host: both mean every address.
func canonicalHost(s string) string {
	if strings.EqualFold(s, "localhost") {
		s = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return strings.ToLower(s)
	case addr.Unmap().IsUnspecified():
		return ""
	default:
		return addr.Unmap().String()
	}
}
