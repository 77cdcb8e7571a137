package app_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// sdkSuite is a program below testdata that uses a library in all the ways that
// cases names, and prints what its user gets as one JSON object.
type sdkSuite struct {
	dir     string
	command []string
	cases   []sdkCase
	here    bool                    // also behind the gateway in this process, where the race detector sees it
	class   func(status int) string // of the errors; nil, or "": not looked at
}

// sdkCase is one use of a library.
type sdkCase struct {
	name string
	want []string // texts of the engine's record, whose keys are sorted; ids and times are taken out
	// Behind the gateway the record is the same, unless it says here why not
	// and what it holds then.
	differs string
	gateway []string
	some    bool // not every library shows the difference
}

// retryTag marks the requests that the engines refuse at first with "try again
// in 1 s".
const retryTag = "retry-429"

// run runs the suite against an engine and behind the gateway, and compares what
// it recorded.
func (s *sdkSuite) run(t *testing.T) {
	leavesNothing(t)
	passes := []string{"engine", "binary"}
	if s.here {
		passes = append(passes, "gateway")
	}
	records := make([]map[string]string, len(passes))
	t.Run("passes", func(t *testing.T) { // ends with the last of them
		for i, pass := range passes {
			t.Run(pass, func(t *testing.T) {
				t.Parallel()
				site := startSDKSite(t, pass)
				records[i] = canonical(t, s.ask(t, site))
				site.checkRetryWait(t)
				site.nothingLeft()
			})
		}
	})
	for i, pass := range passes {
		t.Run(pass, func(t *testing.T) {
			if records[0] == nil || records[i] == nil {
				t.Skip("nothing to compare: see above")
			}
			s.check(t, records[i], pass != "engine")
			if pass != "engine" {
				s.compare(t, records[i], records[0])
			}
		})
	}
}

// ask runs the program.
func (s *sdkSuite) ask(t *testing.T, site *sdkSite) map[string]any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.command[0], s.command[1:]...)
	cmd.Dir = filepath.Join("testdata", s.dir)
	cmd.Env = append(os.Environ(), "BASE="+site.base, "TGI="+site.tgi, "STATUS="+site.status, "ADMIN="+site.admin,
		fmt.Sprintf("SEATS=%d", sdkSeats))
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("the suite failed: %v\n%s", err, said.Bytes())
	}
	var record map[string]any
	if err := json.Unmarshal(out, &record); err != nil {
		t.Fatalf("the suite said no JSON: %v\n%s", err, out)
	}
	return record
}

// check holds a record to the table.
func (s *sdkSuite) check(t *testing.T, record map[string]string, gateway bool) {
	t.Helper()
	names := []string{}
	for _, c := range s.cases {
		names = append(names, c.name)
		want := c.want
		if gateway && c.differs != "" {
			want = c.gateway
		}
		got := record[c.name]
		if strings.Contains(got, `"thrown":`) {
			t.Errorf("%s: %s", c.name, got)
			continue
		}
		for _, text := range want {
			if !strings.Contains(got, text) {
				t.Errorf("%s: the user gets\n%.2000s\nwithout %s", c.name, got, text)
			}
		}
		for _, m := range errorPattern.FindAllStringSubmatch(got, -1) {
			if s.class == nil {
				continue
			}
			if class := s.class(atoi(t, m[2])); class != "" && class != m[1] {
				t.Errorf("%s: status %s is a %s, want %s", c.name, m[2], m[1], class)
			}
		}
	}
	slices.Sort(names)
	if done := slices.Sorted(maps.Keys(record)); !slices.Equal(done, names) {
		t.Errorf("the suite did %q\nthe table has %q", done, names)
	}
}

// compare holds a record behind the gateway to the engine's own.
func (s *sdkSuite) compare(t *testing.T, got, direct map[string]string) {
	t.Helper()
	for _, c := range s.cases {
		if strings.Contains(got[c.name]+direct[c.name], `"thrown":`) {
			continue // see check
		}
		if same := got[c.name] == direct[c.name]; !same && c.differs == "" {
			n := commonPrefix(got[c.name], direct[c.name])
			t.Errorf("%s, from byte %d on\nbehind the gateway: %.1000s\n   from the engine: %.1000s", c.name, n, got[c.name][n:], direct[c.name][n:])
		} else if same && c.differs != "" && !c.some {
			t.Errorf("%s: no difference: %s", c.name, c.differs)
		}
	}
}

func commonPrefix(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

var (
	errorPattern = regexp.MustCompile(`"class":"(\w+)"[^{}]*"status":(\d+)`)
	idPattern    = regexp.MustCompile(`"(chatcmpl-tool|chatcmpl|cmpl|embd|resp|msg|fc|call|rs|toolu|transcribe|translate)[-_][^"]+"`)
	timePattern  = regexp.MustCompile(`"(created|created_at|completed_at)":[\d.]+`)
	// What an engine has in its prefix cache depends on what it was asked before.
	cachePattern = regexp.MustCompile(`"(cached_tokens|cache_read)":\d+`)
)

// canonical writes a record as text: keys sorted, ids, times and what was cached
// taken out.
func canonical(t *testing.T, record map[string]any) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name, v := range record {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		b = idPattern.ReplaceAll(b, []byte(`"$1-ID"`))
		b = timePattern.ReplaceAll(b, []byte(`"$1":0`))
		out[name] = string(cachePattern.ReplaceAll(b, []byte(`"$1":0`)))
	}
	return out
}

func atoi(t *testing.T, s string) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// need skips a test whose tools are missing.
func need(t *testing.T, path, otherwise string) {
	t.Helper()
	if _, err := exec.LookPath(path); err == nil {
		return
	}
	if _, err := os.Stat(path); err != nil {
		skipUnlessRequired(t, otherwise)
	}
}

// skipUnlessRequired skips a test whose tools are missing, but not where they
// must be there.
func skipUnlessRequired(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" || os.Getenv("LLMPROXY_REQUIRE") != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}
