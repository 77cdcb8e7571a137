package admin_test

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admin"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
)

// customer is the body that the first users of the API send.
const customer = `{
    "name": "客户A - 生产环境",
    "user_id": "customer_a",
    "total_quota": 10000000,
    "quota_reset_period": "monthly",
    "allowed_models": ["llama-3-70b", "llama-3-8b"],
    "expires_at": "2026-12-31T23:59:59Z"
  }`

func TestAKeyIsMadeAndShownOnce(t *testing.T) {
	s := start(t)
	a := s.ask("POST", "/admin/api-keys", customer)
	m := s.wants(201, a)
	key, id := m["key"].(string), m["id"].(string)
	for field, want := range map[string]any{
		"name": "客户A - 生产环境", "user_id": "customer_a", "total_quota": 1e7, "quota_reset_period": "monthly",
		"allowed_models": []any{"llama-3-70b", "llama-3-8b"}, "expires_at": "2026-12-31T23:59:59Z",
		"created_at": "2026-11-23T10:00:00Z", "status": "active", "last4": key[len(key)-4:],
	} {
		if fmt.Sprint(m[field]) != fmt.Sprint(want) {
			t.Errorf("%s is %v, want %v", field, m[field], want)
		}
	}
	if !strings.HasPrefix(key, "sk-llmproxy-") || a.header.Get("Location") != "/admin/api-keys/"+id || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s, headers %v", a.body, a.header)
	}
	if s.verdict(key) != auth.Known {
		t.Error("the key cannot be used")
	}
	one := s.ask("GET", "/admin/api-keys/"+id, "")
	s.wants(200, one)
	list := s.ask("GET", "/admin/api-keys", "")
	s.wants(200, list)
	for name, text := range map[string]string{"the key": one.body, "the list": list.body, "a file": s.files(), "the log": s.log.String()} {
		if strings.Contains(text, key) || strings.Contains(text, key[12:30]) {
			t.Errorf("%s shows the key: %s", name, text)
		}
	}
	if hash := fmt.Sprintf("%x", auth.Hash(key)); strings.Contains(a.body+one.body+list.body, hash[:20]) {
		t.Error("an answer shows the hash of the key")
	}
}

func TestAKeyIsShownWithItsUse(t *testing.T) {
	s := start(t)
	for _, id := range []string{s.configuredID(), second(s.makes(customer))} {
		use, _ := s.wants(200, s.ask("GET", "/admin/api-keys/"+id, ""))["use"].(map[string]any)
		if use["in_flight"] != 3.0 || use["quota"].(map[string]any)["used"] != 42.0 {
			t.Errorf("use is %v", use)
		}
	}
}

// A key that is deleted between being found and being shown must not panic.
func TestAKeyIsShownWithTheRingItWasFoundIn(t *testing.T) {
	s := start(t)
	_, id := s.makes(customer)
	for _, c := range []struct{ method, path string }{{"GET", ""}, {"POST", "/reset-quota"}} {
		before := s.ring.Load()
		s.looked = func() {
			ring, err := auth.NewKeyring(nil, auth.Defaults{})
			if err != nil {
				t.Error(err)
			}
			s.ring.Store(ring)
		}
		s.wants(200, s.ask(c.method, "/admin/api-keys/"+id+c.path, ""))
		s.looked = nil
		s.refuses(404, "key_not_found", "", s.ask(c.method, "/admin/api-keys/"+id+c.path, ""))
		s.ring.Store(before)
	}
}

func second(_, id string) string { return id }

func TestAPatchChangesWhatItNames(t *testing.T) {
	s := start(t)
	key, id := s.makes(customer)
	path := "/admin/api-keys/" + id
	m := s.wants(200, s.ask("PATCH", path, `{"name": "B", "expires_at": null}`))
	if m["name"] != "B" || m["expires_at"] != nil || m["user_id"] != "customer_a" || m["created_at"] != "2026-11-23T10:00:00Z" {
		t.Errorf("%v", m)
	}
	s.clock.Store(int64(100 * 24 * time.Hour))
	if v := s.verdict(key); v != auth.Known {
		t.Errorf("a key whose end was taken away is %v", v)
	}
	again, err := keystore.OpenFile(s.dir, s.now)
	if err != nil || again.Keys()[0].Name != "B" {
		t.Error("the change is not on disk", err)
	}
}

func TestARevocationHoldsForTheNextRequest(t *testing.T) {
	s := start(t)
	key, id := s.makes(customer)
	s.wants(200, s.ask("PATCH", "/admin/api-keys/"+id, `{"status": "disabled"}`))
	if v := s.verdict(key); v != auth.Disabled {
		t.Errorf("a disabled key is %v", v)
	}
	a := s.ask("DELETE", "/admin/api-keys/"+id, "")
	if a.status != 204 || a.body != "" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if v := s.verdict(key); v != auth.Unknown {
		t.Errorf("a deleted key is %v", v)
	}
	s.refuses(404, "key_not_found", "", s.ask("DELETE", "/admin/api-keys/"+id, ""))
	s.refuses(404, "key_not_found", "", s.ask("GET", "/admin/api-keys/"+id, ""))
}

func TestKeysOfTheConfigurationAreReadOnly(t *testing.T) {
	s := start(t)
	path := "/admin/api-keys/" + s.configuredID()
	for _, method := range []string{"PATCH", "DELETE"} {
		body := map[string]string{"PATCH": `{"name": "mine"}`}[method]
		if msg := s.refuses(409, "key_is_configured", "", s.ask(method, path, body)); !strings.Contains(msg, "configuration file") {
			t.Errorf("%s: %s", method, msg)
		}
	}
	if lines := s.log.take(t); len(lines) != 0 {
		t.Errorf("what was not changed is in the log: %v", lines)
	}
}

func TestAQuotaIsReset(t *testing.T) {
	s := start(t)
	for _, id := range []string{s.configuredID(), second(s.makes(customer))} {
		m := s.wants(200, s.ask("POST", "/admin/api-keys/"+id+"/reset-quota", ""))
		if last := s.reset[len(s.reset)-1].String(); last != id || m["id"] != id || m["use"] == nil {
			t.Errorf("%v: reset %s, want %s", m, last, id)
		}
	}
	s.log.take(t)
	s.resetErr = errors.New("cannot write quota.txt: no space left on device")
	msg := s.refuses(503, "quota_not_reset", "", s.ask("POST", "/admin/api-keys/"+s.configuredID()+"/reset-quota", ""))
	if lines := s.log.take(t); !strings.Contains(msg, "no space") || len(lines) != 1 || lines[0]["level"] != "ERROR" {
		t.Errorf("%s, log %v", msg, lines)
	}
	s.begun = true
	msg = s.refuses(503, "quota_reset_not_kept", "", s.ask("POST", "/admin/api-keys/"+s.configuredID()+"/reset-quota", ""))
	if lines := s.log.take(t); !strings.Contains(msg, "in force") || len(lines) != 2 || lines[0]["action"] != "reset_quota" || lines[1]["level"] != "ERROR" {
		t.Errorf("a reset that holds and may be lost: %s, log %v", msg, lines)
	}
	s.refuses(404, "key_not_found", "", s.ask("POST", "/admin/api-keys/0123456789abcdef/reset-quota", ""))
}

func TestBodiesThatAreNoKeyAreRefused(t *testing.T) {
	s := start(t)
	_, id := s.makes(customer)
	for _, c := range []struct{ name, body, param string }{
		{"not JSON", `{"name"`, ""},
		{"not an object", `["name"]`, ""},
		{"field misspelt", `{"total_qouta": 5}`, ""},
		{"quota of nothing", `{"total_quota": 0}`, "total_quota"},
		{"limit of another type", `{"requests_per_second": "5"}`, "requests_per_second"},
		{"address that is none", `{"allowed_ips": ["10.0.0.0/33"]}`, "allowed_ips"},
		{"time without a zone", `{"expires_at": "2026-12-31"}`, "expires_at"},
		{"field twice", `{"name": "a", "name": "b"}`, "name"},
		{"secret of the caller's choice", `{"key_hash": "sha256:` + strings.Repeat("a", 64) + `"}`, ""},
		{"key of the caller's choice", `{"key": "sk-x"}`, ""},
		{"last four of another key", `{"last4": "abcd"}`, ""},
		{"time of another key", `{"created_at": "2020-01-01T00:00:00Z"}`, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			before := s.files()
			s.refuses(400, "invalid_request", c.param, s.ask("POST", "/admin/api-keys", c.body))
			s.refuses(400, "invalid_request", c.param, s.ask("PATCH", "/admin/api-keys/"+id, c.body))
			if s.files() != before {
				t.Error("something was stored")
			}
		})
	}
}

func TestManyAtOnceAreAllThereAfterwards(t *testing.T) {
	s := start(t)
	const n = 50
	keys, ids := make([]string, n), make([]string, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { keys[i], ids[i] = s.makes(fmt.Sprintf(`{"name": "key %d"}`, i)) })
	}
	all.Wait()
	for i := range n { // half of them are revoked while others are changed
		all.Go(func() {
			if i%2 == 0 {
				s.wants(204, s.ask("DELETE", "/admin/api-keys/"+ids[i], ""))
				return
			}
			s.wants(200, s.ask("PATCH", "/admin/api-keys/"+ids[i], `{"user_id": "u"}`))
		})
		if i%10 == 9 {
			all.Wait()
		}
	}
	all.Wait()
	again, err := keystore.OpenFile(s.dir, s.now)
	if err != nil {
		t.Fatal(err)
	}
	for i, key := range keys {
		want := []auth.Verdict{auth.Unknown, auth.Known}[i%2]
		stored := slices.ContainsFunc(again.Keys(), func(k *auth.Key) bool { return k.ID().String() == ids[i] && k.UserID == "u" })
		if v := s.verdict(key); v != want || stored != (i%2 == 1) {
			t.Errorf("key %d is %v, want %v; on disk: %v", i, v, want, stored)
		}
	}
}

func TestWhatCannotBeStoredIsNotInForce(t *testing.T) {
	s := start(t)
	key, id := s.makes(customer)
	s.log.take(t)
	if err := os.WriteFile(s.store.Path(), []byte("{ an unfinished edit"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/admin/api-keys", customer},
		{"PATCH", "/admin/api-keys/" + id, `{"status": "disabled"}`},
		{"DELETE", "/admin/api-keys/" + id, ""},
	} {
		msg := s.refuses(503, "keys_not_stored", "", s.ask(c.method, c.path, c.body))
		if lines := s.log.take(t); !strings.Contains(msg, s.store.Path()) || len(lines) != 1 || lines[0]["level"] != "ERROR" {
			t.Errorf("%s: %s, log %v", c.method, msg, lines)
		}
	}
	if v := s.verdict(key); v != auth.Known {
		t.Errorf("the key is %v", v)
	}
}

// Who only hears that it failed sends it again, and makes two keys.
func TestAStoreThatIsAwaySaysThatItMayHaveHappened(t *testing.T) {
	s := start(t)
	key, id := s.makes(customer)
	s.log.take(t)
	s.storeErr = fmt.Errorf("cannot change the keys: %w: no answer", keystore.ErrAway)
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/admin/api-keys", customer},
		{"PATCH", "/admin/api-keys/" + id, `{"status": "disabled"}`},
		{"DELETE", "/admin/api-keys/" + id, ""},
	} {
		a := s.ask(c.method, c.path, c.body)
		msg := s.refuses(503, "key_store_unavailable", "", a)
		if lines := s.log.take(t); !strings.Contains(msg, "may be changed all the same") || a.header.Get("Retry-After") != "1" || len(lines) != 1 || lines[0]["level"] != "ERROR" {
			t.Errorf("%s: %s, Retry-After %q, log %v", c.method, msg, a.header.Get("Retry-After"), lines)
		}
	}
	s.storeErr = nil
	if v := s.verdict(key); v != auth.Known {
		t.Errorf("the key is %v", v)
	}
}

func TestAChangeThatIsNotInForceIsNoSuccess(t *testing.T) {
	s := start(t)
	key, id := s.makes(customer)
	before := s.files()
	s.changeErr = errors.New("cannot build the keyring")
	s.refuses(503, "keys_not_in_force", "", s.ask("POST", "/admin/api-keys", customer))
	if s.files() != before {
		t.Error("a key that nobody knows was left in the store")
	}
	s.log.take(t)
	msg := s.refuses(503, "keys_not_in_force", "", s.ask("PATCH", "/admin/api-keys/"+id, `{"status": "disabled"}`))
	if lines := s.log.take(t); !strings.Contains(msg, "NOT in force") || len(lines) != 1 || lines[0]["id"] != id || lines[0]["msg"] == "admin" {
		t.Errorf("%s, log %v", msg, lines)
	}
	s.refuses(503, "keys_not_in_force", "", s.ask("DELETE", "/admin/api-keys/"+id, ""))
	if v := s.verdict(key); v != auth.Known {
		t.Errorf("the key is %v although nothing is in force", v)
	}
	s.changeErr = nil
	s.refuses(404, "key_not_found", "", s.ask("DELETE", "/admin/api-keys/"+id, ""))
	if v := s.verdict(key); v != auth.Unknown {
		t.Errorf("a key whose removal was asked for again is %v", v)
	}
}

func TestTheListIsPagedAndFiltered(t *testing.T) {
	s := start(t)
	ids := []string{s.configuredID()}
	for i := range 25 {
		body := fmt.Sprintf(`{"name": "key %d of 客户", "user_id": "user %d", "status": %q}`, i, i%5, []string{"active", "disabled"}[i%2])
		ids = append(ids, second(s.makes(body)))
	}
	slices.Sort(ids)
	for _, limit := range []int{1, 7, 25, 26, 1000} {
		if got := s.list(fmt.Sprintf("limit=%d", limit), nil); !slices.Equal(got, ids) {
			t.Errorf("in pages of %d: %v, want %v", limit, got, ids)
		}
	}
	for query, want := range map[string]int{
		"": 26, "user_id=user 1": 5, "user_id=user": 0, "status=disabled": 12, "status=active&user_id=user 1": 2,
		"source=config": 1, "source=file": 25, "name=of 客户": 25, "name=key 1 ": 1, "name=KEY": 0,
	} {
		if got := s.list(escape(query), nil); len(got) != want {
			t.Errorf("%s: %d keys, want %d", query, len(got), want)
		}
	}
	if again := s.list("limit=4", func(id string) { s.ask("DELETE", "/admin/api-keys/"+id, "") }); !slices.Equal(again, ids) {
		t.Errorf("deleting page by page met %v, want %v", again, ids)
	}
	if left := s.list("", nil); !slices.Equal(left, []string{s.configuredID()}) {
		t.Errorf("%v are left", left)
	}
}

// escape writes a query as a client does.
func escape(query string) string { return strings.ReplaceAll(url.PathEscape(query), "%3D", "=") }

// list goes through all pages, calls each with the ids of one after the other, and
// returns them.
func (s *site) list(query string, each func(id string)) (ids []string) {
	s.t.Helper()
	for next := ""; ; {
		m := s.wants(200, s.ask("GET", "/admin/api-keys?"+query+next, ""))
		for _, k := range m["data"].([]any) {
			id := k.(map[string]any)["id"].(string)
			if ids = append(ids, id); each != nil {
				each(id)
			}
		}
		after, more := m["next"].(string)
		if more != m["has_more"] || len(ids) > 100 {
			s.t.Fatalf("has_more is %v, next %v", m["has_more"], m["next"])
		}
		if !more {
			return ids
		}
		if next = "&after=" + after; query == "" {
			next = next[1:]
		}
	}
}

// A list that lacks the store's keys would pass for one of a store without any.
func TestKeysThatAreNotLoadedAreNotDenied(t *testing.T) {
	s := start(t)
	const unknown = "/admin/api-keys/0123456789abcdef"
	for source, denied := range map[string]map[string]bool{
		"none":     {"/admin/api-keys": true, unknown: true},
		"snapshot": {"/admin/api-keys": false, unknown: true},
		"redis":    {"/admin/api-keys": false, unknown: false},
	} {
		s.shared = &admin.SharedKeys{Place: "redis://here/0", Source: source, Error: "it is away"}
		for path, want := range denied {
			a := s.ask("GET", path, "")
			if want {
				s.refuses(503, "key_store_unavailable", "", a)
				if a.header.Get("Retry-After") != "1" || !strings.Contains(a.body, "redis://here/0 are not known here yet: it is away") {
					t.Errorf("%s of %s: %v %s", path, source, a.header, a.body)
				}
			} else if a.status == 503 {
				t.Errorf("%s of %s: %s", path, source, a.body)
			}
		}
		s.wants(200, s.ask("GET", "/admin/api-keys?source=config", ""))
		s.wants(200, s.ask("GET", "/admin/api-keys/"+s.configuredID(), ""))
	}
}
