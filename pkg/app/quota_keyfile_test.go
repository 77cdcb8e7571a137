package app_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// quotaMade is a key that was made at run time, as its maker is told.
type quotaMade struct{ Key, ID string }

// make makes a key by the command line, in another process.
func (s *quotaSite) make(t *testing.T, args ...string) (k quotaMade) {
	t.Helper()
	if err := json.Unmarshal(s.keysCommand(t, append([]string{"new", "-format", "json"}, args...)...), &k); err != nil {
		t.Fatal(err)
	}
	return k
}

func (s *quotaSite) keysCommand(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(binary(t, "llmproxy"), append([]string{"keys"}, append(args, "-data", s.dir)...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("keys %v: %v", args, err)
	}
	return out
}

// answers waits until a key is answered so, and returns how long that took.
func (s *quotaSite) answers(t *testing.T, k quotaMade, status int) time.Duration {
	t.Helper()
	began := time.Now()
	n := 0
	apptest.Eventually(t, fmt.Sprintf("%s is answered %d", k.ID, status), func() bool {
		n++
		return limitKey{s.addr, k.from(n)}.say("GET", "/v1/usage", "").status == status
	})
	return time.Since(began)
}

// from is the key behind a proxy, used from the n-th address: who was refused often
// waits for the next refusal.
func (k quotaMade) from(n int) string {
	return fmt.Sprintf("%s\r\nX-Forwarded-For: 192.0.2.%d", k.Key, n%256)
}

// TestQuotaKeysFileByHand: an editor may do anything to keys.json while the gateway
// runs. What is right holds, what is wrong changes nothing and is told with its
// line, and no edit gives a quota back.
func TestQuotaKeysFileByHand(t *testing.T) {
	leavesNothing(t)
	s := startQuotaSite(t, false, "")
	k := s.make(t, "-quota", "1000", "-name", "by hand")
	other := s.make(t)
	s.answers(t, k, http.StatusOK)
	s.answers(t, other, http.StatusOK)
	client := limitKey{s.addr, k.Key}
	if a := client.say("POST", chatPath, quotaChat); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	used := quotaOf(t, client).Used
	path := filepath.Join(s.dir, "keys.json")
	was, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good := string(was)
	limit := func(n int) string {
		return strings.Replace(good, `"total_quota": 1000`, fmt.Sprintf(`"total_quota": %d`, n), 1)
	}
	stays := func(what string, n int64) {
		t.Helper()
		if u := quotaOf(t, client); u.Used != used || *u.Limit != n || used == 0 {
			t.Errorf("%s: %+v, %d were used", what, u, used)
		}
		if a := (limitKey{s.addr, other.Key}).say("GET", "/v1/models", ""); a.status != http.StatusOK {
			t.Errorf("%s: the other key: %d", what, a.status)
		}
	}

	writeFile(t, path, limit(2000))
	apptest.Eventually(t, "the edit holds", func() bool { return *quotaOf(t, client).Limit == 2000 })
	stays("a good edit", 2000)

	for n, bad := range []string{
		limit(0), strings.Replace(good, `"total_quota"`, `"total_qouta"`, 1), good[:len(good)/2], "", "null",
		strings.Replace(limit(5), "]", ","+regexp.MustCompile(`(?s)\{\s*"key_hash".*?\}`).FindString(good)+"]", 1),
	} {
		said := strings.Count(s.output.String(), "the keys file was not taken over")
		writeFile(t, path, bad)
		apptest.Eventually(t, fmt.Sprintf("it says that edit %d is wrong", n), func() bool {
			return strings.Count(s.output.String(), "the keys file was not taken over") > said
		})
		if n < 3 && !regexp.MustCompile(`keys\.json:[1-9]`).MatchString(s.output.String()) {
			t.Error("it does not say which line is wrong")
		}
		s.until("llmproxy_keys_file_failing", is(1))
		stays(fmt.Sprintf("bad edit %d", n), 2000)
	}
	writeFile(t, path, limit(500))
	s.until("llmproxy_keys_file_failing", is(0))
	stays("a good edit after bad ones", 500)
	if strings.Contains(s.output.String(), k.Key) {
		t.Error("the log has a key in it")
	}
}

// TestQuotaKeysFileIsGone: a file that was deleted takes no key out of force, and
// the operator hears of it before a restart would.
func TestQuotaKeysFileIsGone(t *testing.T) {
	leavesNothing(t)
	s := startQuotaSite(t, false, "")
	k := s.make(t, "-quota", "1000")
	s.answers(t, k, http.StatusOK)
	path := filepath.Join(s.dir, "keys.json")
	rename(t, path, path+".away")
	s.until("llmproxy_keys_file_failing", is(1))
	s.says("has gone and its keys stay in force")
	if a := (limitKey{s.addr, k.Key}).say("POST", chatPath, quotaChat); a.status != http.StatusOK {
		t.Errorf("without its file the key is answered %d %s", a.status, a.body)
	}
	rename(t, path+".away", path)
	s.until("llmproxy_keys_file_failing", is(0))
	if u := quotaOf(t, limitKey{s.addr, k.Key}); u.Used == 0 {
		t.Errorf("%+v", u)
	}
}

// TestQuotaKeysRevokedByCommand: a key that is revoked from a shell is refused within
// a second by a gateway that runs.
func TestQuotaKeysRevokedByCommand(t *testing.T) {
	leavesNothing(t)
	times, soon := 2, 5*time.Second // other tests run meanwhile
	if long {
		times, soon = 20, time.Second
	}
	s := startQuotaSite(t, false, "")
	load := s.spend(t, 4)
	defer load.end()
	var slowest time.Duration
	for n := range times {
		k := s.make(t)
		slowest = max(slowest, s.answers(t, k, http.StatusOK))
		revoke := []string{"revoke", k.ID}
		if n%2 == 1 {
			revoke = []string{"revoke", "-delete", k.ID}
		}
		s.keysCommand(t, revoke...)
		slowest = max(slowest, s.answers(t, k, http.StatusUnauthorized))
	}
	t.Logf("a change holds after %v at most", slowest)
	if slowest > soon {
		t.Errorf("a change holds after %v", slowest)
	}
}

// TestQuotaKeysRevokedByRequest: after the answer to a revocation no request of the
// key is let in, whatever else goes on.
func TestQuotaKeysRevokedByRequest(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{LedgerSize: 1 << 18})
	g := apptest.Start(t, limitConfig(t, "admin: {token: "+adminToken+"}\ntrusted_proxies: [127.0.0.1]\n", ""), e)
	admin, stop := limitKey{g.Addr, adminToken}, make(chan struct{})
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() { quotaBusy(t, limitKeyOf(g, 0), stop) })
	}
	defer work.Wait()
	defer close(stop)
	for n := range 200 {
		var made quotaMade
		a := admin.say("POST", "/admin/api-keys", `{"name":"short-lived","total_quota":1000}`)
		if err := json.Unmarshal([]byte(a.body), &made); err != nil || a.status != http.StatusCreated {
			t.Fatalf("%d %s %v", a.status, a.body, a.err)
		}
		k := limitKey{g.Addr, made.from(n)}
		if a := k.say("POST", chatPath, quotaChat); a.status != http.StatusOK {
			t.Fatalf("key %d, when it was made: %d %s", n, a.status, a.body)
		}
		switch n % 3 {
		case 0:
			a = admin.say("PATCH", "/admin/api-keys/"+made.ID, `{"status":"disabled"}`)
		case 1:
			a = admin.say("DELETE", "/admin/api-keys/"+made.ID, "")
		case 2:
			a = admin.say("PATCH", "/admin/api-keys/"+made.ID, `{"expires_at":"2020-01-01T00:00:00Z"}`)
		}
		if a.status/100 != 2 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		for _, path := range []string{chatPath, "/v1/usage"} {
			if a := k.say(map[bool]string{true: "POST", false: "GET"}[path == chatPath], path, quotaChat); a.status != http.StatusUnauthorized {
				t.Fatalf("key %d, %s after it was revoked: %d %s", n, path, a.status, a.body)
			}
		}
	}
}

// quotaBusy sends requests that must all be served, until it is told to stop.
func quotaBusy(t *testing.T, k limitKey, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if a := k.say("POST", chatPath, quotaChat); a.status != http.StatusOK {
			t.Errorf("a key that nobody touches: %d %s %v", a.status, a.body, a.err)
			return
		}
	}
}
