package webhook

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

// said is a line of testdata/receiver/receiver.mjs.
type said struct {
	Address, ID, Refused, Rejected string
	Events                         []struct{ SpecVersion, ID, Source, Type string }
}

// publicReceiver starts a receiver that is made of public libraries. The last
// thing that it says comes from hear.
func publicReceiver(t *testing.T, secret, format string) (url string, hear func() said) {
	t.Helper()
	if _, err := os.Stat("testdata/receiver/node_modules/.installed"); err != nil {
		why := "scripts/test-deps.sh installs what testdata/receiver needs"
		if os.Getenv("CI") != "" || os.Getenv("LLMPROXY_REQUIRE") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	cmd := exec.CommandContext(t.Context(), "node", "testdata/receiver/receiver.mjs")
	cmd.Env = append(os.Environ(), "SECRET="+secret, "FORMAT="+format)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	lines := bufio.NewReader(stdout)
	hear = func() (s said) {
		t.Helper()
		line, err := lines.ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &s)
		}
		if err != nil {
			t.Fatalf("the receiver said %q: %v", line, err)
		}
		return s
	}
	return hear().Address, hear
}

func TestPublicLibrariesAccept(t *testing.T) {
	const plain = "a secret of no special form"
	for name, c := range map[string]struct{ secret, format string }{
		"a whsec_ secret":                    {string(testSecret), ""},
		"a plain secret, which is named raw": {plain, "raw"},
	} {
		t.Run(name, func(t *testing.T) {
			url, hear := publicReceiver(t, c.secret, c.format)
			b := newBench(t, url, func(config *Config) {
				config.Secret, config.MaxEvents, config.Now = []byte(c.secret), 3, time.Now
			})
			b.sendAll(t, someEvents(5))
			for _, ids := range [][]int{{1, 2, 3}, {4, 5}} {
				s := hear()
				if want := fmt.Sprintf("gw-1-%d-%d", ids[0], ids[len(ids)-1]); s.ID != want || s.Refused != "" || s.Rejected != "" {
					t.Errorf("it said %+v, want %s accepted", s, want)
				}
				var got []string
				for _, e := range s.Events {
					got = append(got, e.SpecVersion+" "+e.ID+" "+e.Source+" "+e.Type)
				}
				var want []string
				for _, n := range ids {
					want = append(want, fmt.Sprintf("1.0 id-%d urn:llmproxy:gw-1 io.llmproxy.usage", n))
				}
				if !slices.Equal(got, want) {
					t.Errorf("it read %q, want %q", got, want)
				}
			}
		})
	}
}

// The receiver above can say no.
func TestPublicLibrariesRefuse(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		result string
	}{
		"a wrong secret":   {func(c *Config) { c.Secret = []byte("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA") }, "refused"},
		"no signature":     {func(c *Config) { c.Secret = nil }, "refused"},
		"an old timestamp": {func(c *Config) { c.Now = func() time.Time { return time.Now().Add(-time.Hour) } }, "refused"},
		"what is no event": {func(*Config) {}, "rejected"},
	} {
		t.Run(name, func(t *testing.T) {
			url, hear := publicReceiver(t, string(testSecret), "")
			b := newBench(t, url, func(config *Config) {
				config.Now = time.Now
				c.change(config)
			})
			b.onWait = func(time.Duration) error { b.config.URL = newReceiver(t, script()).URL; return nil }
			b.sendAll(t, []Event{{Seq: 1, Data: []byte(`{"specversion":"1.0","n":1}`)}})
			if s := hear(); b.Stats().Attempts[c.result] != 1 || s.Refused+s.Rejected == "" {
				t.Errorf("it said %+v; attempts %v", s, b.Stats().Attempts)
			}
		})
	}
}
