package config

import (
	"fmt"
	"strings"
	"testing"
)

func TestListeners(t *testing.T) {
	for _, text := range []string{
		"listen: unix:/run/llmproxy/llmproxy.sock\nlisten_mode: \"0600\"",
		"listen: systemd",
		"listen: systemd:http",
		"listen: systemd:9090", // a name, though it looks like a port
		"metrics: {listen: unix:/run/metrics.sock}\nlisten_mode: \"0666\"",
		"listen: :8000\nlisten_mode: \"0660\"", // the default, written out
		"listen: unix:/a\nmetrics: {listen: unix:/b}",
	} {
		if _, err := Parse("f.yaml", []byte(good+text+"\n"), nil); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	const example = "write for example unix:/run/llmproxy/llmproxy.sock"
	for _, c := range []struct{ name, text, want string }{
		{"relative to a directory that systemd chooses", "listen: unix:llmproxy.sock", `listen: "unix:llmproxy.sock" is not unix: and an absolute path; ` + example},
		{"a URL", "listen: unix:///run/a.sock", `listen: "unix:///run/a.sock" is not unix: and an absolute path; ` + example},
		{"no file", "listen: unix:/", `listen: "unix:/" is not unix: and an absolute path; ` + example},
		{"no path", "listen: \"unix:\"", `listen: "unix:" is not unix: and an absolute path; ` + example},
		{"path without unix", "listen: /run/a.sock", `listen: "/run/a.sock" is not an address; write host:port, for example 127.0.0.1:8000 or :8000`},
		{"bind fails late", "listen: unix:/" + strings.Repeat("a", 103), "listen: the path of a unix socket has at most 103 bytes, not 104"},
		{"no name of a socket", "listen: \"systemd:\"", `listen: "systemd:" has no name of a socket; write for example systemd:http, or systemd for the first one`},
		{"metrics by systemd", "metrics: {listen: systemd}", `metrics.listen: "systemd" is not an address; write host:port, for example 127.0.0.1:8000 or :8000`},
		{"octal that YAML reads as decimal", "listen_mode: 0660", "listen_mode: wants a file mode, not a number: put it in quotes"},
		{"mode in letters", "listen_mode: rw-rw----", `listen_mode: "rw-rw----" is not a file mode; write for example "0660"`},
		{"mode with set-user-id", "listen_mode: \"4660\"", `listen_mode: "4660" is not a file mode; write for example "0660"`},
		{"digit that is not octal", "listen_mode: \"0680\"", `listen_mode: "0680" is not a file mode; write for example "0660"`},
		{"socket for nobody", "listen_mode: \"0060\"", `listen_mode: must let the owner read and write, else not even the gateway's user could connect; write for example "0660"`},
		{"a mode protects no port", "listen_mode: \"0600\"", "listen_mode: is of use with a unix socket only; " + strings.Replace(example, "unix:", "listen: unix:", 1)},
	} {
		t.Run(c.name, func(t *testing.T) { faults(t, good+c.text+"\n", nil, "f.yaml:3: "+c.want) })
	}
	t.Run("two listeners on one socket", func(t *testing.T) {
		faults(t, good+"listen: unix:/a\nmetrics: {listen: unix:/a}\n", nil,
			"f.yaml:4: metrics.listen: is the address of the main listener; leave it out to serve metrics there")
	})
}

// Who reads the output of check must see who can connect.
func TestDescribeListeners(t *testing.T) {
	for text, want := range map[string]string{
		"listen: :80":          ":80 (plain HTTP)",
		"listen: systemd:http": "systemd:http (plain HTTP)",
		"listen: unix:/run/a":  "unix:/run/a (mode 0660, plain HTTP)",
		"tls: {%s}":            ":8000 (TLS 1.2 or newer, testdata/ca.pem)",
		"tls: {%s, min_version: \"1.3\", client_ca_file: testdata/ca.pem}": ":8000 (TLS 1.3 or newer, testdata/ca.pem, clients need a certificate signed by testdata/ca.pem)",
	} {
		if strings.Contains(text, "%s") {
			text = fmt.Sprintf(text, "cert_file: testdata/ca.pem, key_file: testdata/ca.pem")
		}
		var b strings.Builder
		parse(t, good+text+"\n").Describe(&b)
		if line, _, _ := strings.Cut(b.String(), "\n"); strings.TrimSpace(strings.TrimPrefix(line, "listen")) != want {
			t.Errorf("%s: %s, want %s", text, line, want)
		}
	}
}
