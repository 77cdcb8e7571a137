package app_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// limitedLibrary is a library with its own idea of when to try again. What they do
// with a wait that is too long for them is theirs, and differs:
//
//   - openai 3.54.0 for Python (_base_client.py, _should_retry; MAX_RETRY_AFTER_DELAY
//     in _constants.py) and openai-go 3.96.0 (internal/requestconfig/requestconfig.go,
//     parseRetryAfterHeader) raise at once when told to wait for more than 2 minutes.
//   - openai 6.49.0 for Node (client.mjs, retryRequest) waits for whatever it is told;
//     a timer of more than 2^31-1 ms, 24 days, fires at once.
//   - anthropic 2.12.0 for Python (_base_client.py, _calculate_retry_timeout) waits for
//     whatever it is told, up to 2^32 ms, and 1.12.0 for Node (client.mjs, retryRequest)
//     up to 2^31-1 ms; it tries after half a second when told more.
//   - ai 6.0.326 (dist/index.mjs, getRetryDelayInMs) waits as told for less than a
//     minute, and else 2 s and 4 s. It knows no x-should-retry.
//   - @langchain/core 1.4.0 (dist/utils/async_caller.js, defaultFailedAttemptHandler)
//     looks at Retry-After only to raise at once when it is more than a minute. It tries
//     after 1 to 2 s, and up to six times after twice as long each.
type limitedLibrary struct {
	dir     string
	command []string
	served  []string          // cases whose requests all succeed in the end
	refused map[string]string // cases whose request does not: class, status, type and code of the error
	tries   map[string]int    // of these, where it is not one
	own     bool              // waits as it likes
}

// Who waits as told is served, and none of the libraries asks in vain: what waiting
// does not help they are told so that they do not wait.
func TestLibrariesWaitAsTold(t *testing.T) {
	leavesNothing(t)
	libraries := limitedLibraries(t)
	t.Run("libraries", func(t *testing.T) { // ends with the last of them
		for name, l := range libraries {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				l.check(t)
			})
		}
	})
}

func limitedLibraries(t *testing.T) map[string]limitedLibrary {
	t.Helper()
	program := filepath.Join(binaries, "sdk-go-limits")
	build := exec.Command("go", "build", "-o", program, "./limits")
	build.Dir = filepath.Join("testdata", "sdk-go")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build the suite: %v\n%s", err, out)
	}
	python, node := pythonSuite(t, "limits"), nodeSuite(t, "limits")
	of := func(command []string, library string) []string { return append(slices.Clone(command), library) }
	every := []string{"second", "second-at-once", "streams-at-once", "minute", "minute-at-once", "tokens", "tokens-at-once"}
	return map[string]limitedLibrary{
		"openai-python":    {dir: pythonDir, command: of(python, "openai"), served: every, refused: openaiRaised("debt")},
		"openai-node":      {dir: nodeDir, command: of(node, "openai"), served: every, refused: openaiRaised()},
		"openai-go":        {dir: "sdk-go", command: []string{program}, served: every, refused: openaiGoRaised},
		"anthropic-python": {dir: pythonDir, command: of(python, "anthropic"), served: every, refused: anthropicRaised},
		"anthropic-node":   {dir: nodeDir, command: of(node, "anthropic"), served: every, refused: anthropicRaised},
		"langchain": {
			dir: nodeDir, command: of(node, "langchain"), served: []string{"second"}, own: true,
			refused: map[string]string{"quota": "InsufficientQuotaError 429 - insufficient_quota", "debt": "RateLimitCapacityError 429 - rate_limit_exceeded"},
		},
		"vercel": {
			dir: nodeDir, command: of(node, "ai"), served: []string{"second", "minute"},
			refused: map[string]string{"quota": "AI_APICallError 429 - insufficient_quota"}, tries: map[string]int{"quota": 3},
		},
	}
}

// openaiRaised are the errors of OpenAI's libraries. The debt is only for those
// that do not wait for it.
func openaiRaised(debt ...string) map[string]string {
	raised := map[string]string{
		"quota":   "RateLimitError 429 insufficient_quota insufficient_quota",
		"unknown": "AuthenticationError 401 invalid_request_error invalid_api_key",
		"address": "PermissionDeniedError 403 invalid_request_error ip_not_authorized",
		"model":   "NotFoundError 404 invalid_request_error model_not_found",
	}
	for _, name := range debt {
		raised[name] = "RateLimitError 429 tokens rate_limit_exceeded"
	}
	return raised
}

var openaiGoRaised = map[string]string{
	"quota":   "APIError 429 insufficient_quota insufficient_quota",
	"debt":    "APIError 429 tokens rate_limit_exceeded",
	"unknown": "APIError 401 invalid_request_error invalid_api_key",
	"address": "APIError 403 invalid_request_error ip_not_authorized",
	"model":   "APIError 404 invalid_request_error model_not_found",
}

var anthropicRaised = map[string]string{
	"quota":   "RateLimitError 429 rate_limit_error -",
	"unknown": "AuthenticationError 401 authentication_error -",
	"address": "PermissionDeniedError 403 permission_error -",
	"model":   "NotFoundError 404 not_found_error -",
}

func (l limitedLibrary) check(t *testing.T) {
	site := startLimitedSite(t)
	suite := sdkSuite{dir: l.dir, command: append(slices.Clone(l.command), fmt.Sprint(bigAnswer))}
	suite.command = append(append(suite.command, l.served...), slices.Sorted(maps.Keys(l.refused))...)
	record := suite.ask(t, &sdkSite{base: site.url, tgi: site.url, status: site.url, admin: site.url})
	site.mu.Lock()
	defer site.mu.Unlock()
	for _, name := range l.served {
		l.checkServed(t, name, record[name], site.attempts[name])
	}
	for name, want := range l.refused {
		if got := raised(record[name]); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		if tries, want := len(site.attempts[name]["0"]), max(1, l.tries[name]); tries != want {
			t.Errorf("%s: tried %d times, want %d", name, tries, want)
		}
	}
	if !l.own {
		checkWaits(t, site.attempts, l.served)
	}
}

// raised writes the one error of a case as the tables do.
func raised(got any) string {
	b, err := json.Marshal(got)
	if err != nil {
		return err.Error()
	}
	var all []struct {
		Error struct {
			Class, Type, Code string
			Status            int
		}
	}
	if err := json.Unmarshal(b, &all); err != nil || len(all) != 1 {
		return string(b)
	}
	e := all[0].Error
	return fmt.Sprint(e.Class, " ", e.Status, " ", cmp.Or(e.Type, "-"), " ", cmp.Or(e.Code, "-"))
}

// checkServed wants three answers, and that some had to be waited for.
func (l limitedLibrary) checkServed(t *testing.T, name string, got any, requests map[string][]*limitedAttempt) {
	t.Helper()
	answers, _ := got.([]any)
	if len(answers) != 3 || len(requests) != 3 {
		t.Fatalf("%s: %d requests were answered %v", name, len(requests), got)
	}
	for _, a := range answers {
		if a != "length" && a != "max_tokens" {
			t.Errorf("%s: %v", name, a)
		}
	}
	waits := 0
	var came []time.Time
	for n, tries := range requests {
		last := len(tries) - 1
		waits += last
		came = append(came, tries[0].arrived)
		for i, a := range tries {
			if (i == last) != (a.status == 200) || (a.status == 429) != (a.told > 0) {
				t.Errorf("%s: request %s: try %d of %d: %d, told to wait %v", name, n, i+1, last+1, a.status, a.told)
			}
		}
		if inTurn := name == "second" || name == "minute" || name == "tokens"; inTurn && !l.own && last > 1 {
			t.Errorf("%s: request %s waited as told and was refused again: %d tries", name, n, last+1)
		}
	}
	within := slices.MaxFunc(came, time.Time.Compare).Sub(slices.MinFunc(came, time.Time.Compare))
	if waits == 0 && within < time.Second/2 { // a slow machine needs no limits
		t.Errorf("%s: nobody had to wait, of three within %v", name, within)
	}
}

// checkWaits holds the time between one try and the next to what was said.
func checkWaits(t *testing.T, attempts map[string]map[string][]*limitedAttempt, cases []string) {
	t.Helper()
	const (
		early = time.Millisecond // timers of Node count whole ones
		late  = 250 * time.Millisecond
	)
	least := time.Duration(-1)
	for _, name := range cases {
		for n, tries := range attempts[name] {
			for i, a := range tries[1:] {
				told := tries[i].told
				over := a.arrived.Sub(tries[i].answered) - told
				if over < -early || over > patience {
					t.Errorf("%s: request %s: told to wait %v, came after %v", name, n, told, told+over)
				}
				precise := told.Truncate(time.Second)+time.Second-told > 300*time.Millisecond
				if precise && (least < 0 || over < least) {
					least = max(over, 0)
				}
			}
		}
	}
	// One may be held up by the machine. All of them come late when the library looks
	// at the whole seconds of Retry-After, or adds a time of its own.
	if least > late {
		t.Errorf("none came within %v of what it was told; the first %v late", late, least)
	}
}
