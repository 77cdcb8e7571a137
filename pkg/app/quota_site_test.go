package app_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/events"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// quotaSite is a gateway process whose keys have quotas, in front of two engines
// that tell exactly how far each stream came.
type quotaSite struct {
	*gatewayProcess
	hook    *billing // nil without one
	engines []*apptest.Engine
	dir     string // data_dir
	keys    []string
	client  *http.Client
}

// quotaKeys have periods of every kind, none of which ends during a test.
var quotaKeys = []string{
	"total_quota: 1000000000, quota_reset_period: never",
	"total_quota: 1000000000, quota_reset_period: daily",
	"total_quota: 1000000000, quota_reset_period: monthly",
}

// startQuotaSite runs one; more is more of the file.
func startQuotaSite(t *testing.T, hook bool, more string) *quotaSite {
	t.Helper()
	s := &quotaSite{gatewayProcess: newGateway(t), dir: filepath.Join(t.TempDir(), "data")}
	s.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}, Timeout: patience}
	t.Cleanup(s.client.CloseIdleConnections)
	yaml := fmt.Sprintf("listen: %s\ndata_dir: %q\nauth: {timezone: %s}\nadmin: {token: %s}\ntrusted_proxies: [127.0.0.1]\nhealth_check: {interval: 200ms}\n%s",
		s.addr, s.dir, quotaZone(), adminToken, more)
	if hook {
		s.hook = startBilling(t)
		yaml += fmt.Sprintf("usage_hook: {enabled: true, url: \"http://%s/\", secret: %q, max_age: 20ms}\n", s.hook.addr, billingSecret)
	}
	yaml += "api_keys:\n"
	for i, fields := range quotaKeys {
		s.keys = append(s.keys, fmt.Sprint("sk-quota-", i))
		yaml += fmt.Sprintf("  - {key: %s, %s}\n", s.keys[i], fields)
	}
	yaml += "backends:\n"
	for i := range 2 {
		e := apptest.StartEngine(t, mockvllm.Options{StepBase: 5 * time.Millisecond, LedgerSize: 1 << 18})
		s.engines = append(s.engines, e)
		yaml += fmt.Sprintf("  - {url: %q, name: e%d, engine: vllm, continuous_usage: true}\n", e.URL, i)
	}
	writeFile(t, s.file, yaml)
	s.run(t)
	return s
}

// quotaZone is a zone where no day ends soon.
func quotaZone() string { return fmt.Sprintf("Etc/GMT%+d", time.Now().UTC().Hour()-12) }

// run starts the gateway and waits until it is ready.
func (s *quotaSite) run(t *testing.T) {
	t.Helper()
	s.gatewayProcess.start(t)
	apptest.Eventually(t, "the gateway is ready", func() bool {
		status, _ := s.get("/readyz")
		return status == http.StatusOK
	})
}

// quotaOf is what a key is told of its quota.
func quotaOf(t testing.TB, k limitKey) admit.QuotaUse {
	t.Helper()
	u := useOf(t, k)
	if u.Quota == nil {
		t.Fatal("it is told of no quota")
	}
	return *u.Quota
}

func useOf(t testing.TB, k limitKey) (u admit.Use) {
	t.Helper()
	a := k.say("GET", "/v1/usage", "")
	if err := json.Unmarshal([]byte(a.body), &u); err != nil || a.status != http.StatusOK {
		t.Fatalf("/v1/usage: %d %s: %v %v", a.status, a.body, a.err, err)
	}
	return u
}

func (s *quotaSite) quota(t testing.TB, key int) admit.QuotaUse {
	t.Helper()
	return quotaOf(t, limitKey{s.addr, s.keys[key]})
}

func quotaID(key string) auth.ID {
	k := auth.Key{Hash: auth.Hash([]byte(key))}
	return k.ID()
}

// quotaLoad is clients that ask with all keys by turns, until they are told to stop
// or the gateway is gone.
type quotaLoad struct {
	stop  context.CancelFunc
	work  sync.WaitGroup
	ended atomic.Int64 // requests
}

// spend sends answers of up to 60 tokens, most of them streams, some of which are
// left; and one stream of each key that takes longer than any test.
func (s *quotaSite) spend(t *testing.T, clients int) *quotaLoad {
	ctx, stop := context.WithCancel(t.Context())
	l := &quotaLoad{stop: stop}
	for i := range clients {
		l.work.Go(func() {
			for n := i; s.request(ctx, n%len(s.keys), 1+rand.IntN(60), n%4) == nil; n++ {
				l.ended.Add(1)
			}
		})
	}
	for i := range s.keys {
		l.work.Go(func() { _ = s.request(ctx, i, 1<<16, 0) }) // until the gateway is gone
	}
	return l
}

// The ways of a request.
const (
	quotaStream = iota
	quotaWhole
	quotaLeft
)

// request asks for an answer of so many tokens. The error says that there will be
// no more answers.
func (s *quotaSite) request(ctx context.Context, key, tokens, way int) error {
	body := fmt.Sprintf(`{"model":"mock-model","mock_tag":%q,"max_tokens":%d,"mock_tokens":%d,"stream":%t,"messages":[{"role":"user","content":%q}]}`,
		fmt.Sprintf("%d %d", key, tokens), tokens, tokens, way != quotaWhole, strings.Repeat("hi ", tokens%50))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+chatPath, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.keys[key])
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if way == quotaLeft {
		_, err = bufio.NewReader(resp.Body).ReadString('\n')
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// more waits until n more requests have ended.
func (l *quotaLoad) more(t *testing.T, n int64) {
	t.Helper()
	want := l.ended.Load() + n
	apptest.Eventually(t, "requests end", func() bool { return l.ended.Load() >= want })
}

// end waits until all clients have gone.
func (l *quotaLoad) end() {
	l.stop()
	l.work.Wait()
}

// rows are the requests that came to an engine, by the gateway's id, once no engine
// works any more.
func (s *quotaSite) rows(t *testing.T) map[string]mockvllm.Entry {
	t.Helper()
	rows := map[string]mockvllm.Entry{}
	for _, e := range s.engines {
		for _, row := range quotaRows(t, e) {
			id, _, _ := strings.Cut(row.XRequestID, "-")
			if before, ok := rows[id]; ok && before.Tokens > 0 {
				t.Errorf("two engines worked on request %s", id)
			}
			rows[id] = row
		}
	}
	return rows
}

// quotaRows are what was asked of an engine, once it does not work any more.
func quotaRows(t *testing.T, e *apptest.Engine) []mockvllm.Entry {
	t.Helper()
	apptest.Eventually(t, "the engine is idle", func() bool {
		running, waiting, _ := e.Load()
		for _, row := range e.Ledger() {
			if !row.Ended() {
				return false
			}
		}
		return running == 0 && waiting == 0
	})
	return posts(e)
}

// recorded are the events in the journal, by the gateway's id of the request.
func (s *quotaSite) recorded(t *testing.T) map[string]events.Record {
	t.Helper()
	all := map[string]events.Record{}
	var last uint64
	_, err := events.Read(s.dir, func(e events.Event) error {
		id := hex.EncodeToString(e.Record.ID[:])
		if _, twice := all[id]; twice || e.Number != last+1 {
			t.Errorf("event %d, of request %s, comes after event %d; twice: %t", e.Number, id, last, twice)
		}
		all[id], last = e.Record, e.Number
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// exported is what `llmproxy usage export` has of each key.
func (s *quotaSite) exported(t *testing.T) map[string]int64 {
	t.Helper()
	out, err := exec.Command(binary(t, "llmproxy"), "usage", "export", "-data", s.dir, "-by", "key", "-format", "json").Output()
	var rows []struct {
		Key   string
		Total int64 `json:"total_tokens"`
	}
	if err != nil || json.Unmarshal(out, &rows) != nil {
		t.Fatalf("usage export: %v: %s", err, out)
	}
	totals := map[string]int64{}
	for _, r := range rows {
		totals[r.Key] = r.Total
	}
	return totals
}
