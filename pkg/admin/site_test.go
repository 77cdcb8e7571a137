package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/fasthttputil"

	"github.com/llmproxy/llmproxy/pkg/admin"
	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/route"
)

const (
	token      = "admin-token"
	configured = "sk-llmproxy-dev-team-001" // the key of the configuration
)

var now = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

// site is the API on a server, with a real store.
type site struct {
	t        testing.TB
	api      *admin.API
	server   *fasthttp.Server
	listener *fasthttputil.InmemoryListener
	client   *http.Client
	dir      string
	store    *keystore.File
	storeErr error      // of every change of the store, unless nil
	applying sync.Mutex // see changed
	ring     atomic.Pointer[auth.Keyring]
	looked   func() // after somebody asked for the ring; nil: nothing
	failures *auth.Failures
	table    *route.Table
	clock    atomic.Int64 // ns after now
	log      lines

	changeErr, resetErr, reloadErr error
	begun                          bool // by a reset that fails
	reset                          []auth.ID
	reloads                        int
	shared                         *admin.SharedKeys // what is known of keys in Redis
}

// faulty is a store that cannot be changed while there is an error.
type faulty struct {
	keystore.Store
	err *error
}

func (f faulty) Add(k *auth.Key) error {
	if *f.err != nil {
		return *f.err
	}
	return f.Store.Add(k)
}

func (f faulty) Replace(id auth.ID, edit func(auth.Key) (*auth.Key, error)) (*auth.Key, error) {
	if *f.err != nil {
		return nil, *f.err
	}
	return f.Store.Replace(id, edit)
}

func (f faulty) Remove(id auth.ID) (*auth.Key, error) {
	if *f.err != nil {
		return nil, *f.err
	}
	return f.Store.Remove(id)
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// take returns the lines since the last call.
func (l *lines) take(t testing.TB) (all []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		delete(m, "time")
		all = append(all, m)
	}
	l.b.Reset()
	return all
}

// newSite has not started to serve.
func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), listener: fasthttputil.NewInmemoryListener(), failures: auth.NewFailures()}
	var err error
	if s.store, err = keystore.OpenFile(s.dir, s.now); err != nil {
		t.Fatal(err)
	}
	if s.table, err = route.Build(route.TableConfig{Backends: []route.BackendConfig{
		{Name: "gpu-1:8000", URL: "http://user:hunter2@gpu-1:8000/v1?key=hunter3", Weight: 10, Models: []string{"qwen-*"}, Region: "north"},
		{Name: "gpu-2:8000", URL: "http://gpu-2:8000", Draining: true},
		{Name: "gpu-3:8000", URL: "http://user:hunter4@gpu-3:port"},
	}}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.changed(); err != nil {
		t.Fatal(err)
	}
	s.api = admin.New(admin.Options{
		Token: token, Store: faulty{s.store, &s.storeErr}, Keyring: s.keyring, Changed: s.changed,
		Use: func(r *auth.Keyring, k *auth.Key) admit.Use {
			r.Limits(k) // as the gateway does; it panics unless the key is of the ring
			return admit.Use{InFlight: 3, Quota: &admit.QuotaUse{Used: 42, Period: "daily"}}
		},
		Reset: func(id auth.ID) (bool, error) {
			s.reset = append(s.reset, id)
			return s.begun || s.resetErr == nil, s.resetErr
		},
		Cluster:  func() admin.Cluster { return admin.Cluster{Keys: s.shared} },
		Backends: s.table.Backends,
		Latency: func(b *route.Backend) (time.Duration, bool) {
			return 250 * time.Millisecond, b.InFlight() > 0
		},
		Config: func() ([]byte, error) { return []byte(`{"listen":":8000","admin":{"token":"***"}}`), nil },
		Reload: func() error {
			s.reloads++
			return s.reloadErr
		},
		Client: func(ctx *fasthttp.RequestCtx) netip.Addr { return netip.MustParseAddr("192.0.2.7") },
		Failed: func(ip netip.Addr) time.Duration { return s.failures.Add(s.clock.Load(), ip) },
		Log:    slog.New(slog.NewJSONHandler(&s.log, nil)),
	})
	return s
}

func start(t testing.TB) *site {
	t.Helper()
	s := newSite(t)
	s.server = &fasthttp.Server{Handler: s.api.Serve, CloseOnShutdown: true, Logger: slog.NewLogLogger(slog.DiscardHandler, 0)}
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(s.listener) }()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return s.listener.Dial() }}
	s.client = &http.Client{Transport: transport, Timeout: 30 * time.Second}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		s.listener.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *site) now() time.Time { return now.Add(time.Duration(s.clock.Load())) }

func (s *site) keyring() *auth.Keyring {
	ring := s.ring.Load()
	if s.looked != nil {
		s.looked()
	}
	return ring
}

// changed is what the gateway does: configured keys and the store's in one ring. The
// ring that is built last is put in force last.
func (s *site) changed() error {
	s.applying.Lock()
	defer s.applying.Unlock()
	if s.changeErr != nil {
		return s.changeErr
	}
	keys := []*auth.Key{{Hash: auth.Hash(configured), Last4: "-001", Name: "研发部门", UserID: "dept_dev", Source: auth.Configured}}
	ring, err := auth.NewKeyring(append(keys, s.store.Keys()...), auth.Defaults{})
	if err == nil {
		s.ring.Store(ring)
	}
	return err
}

func (s *site) configuredID() string {
	k := auth.Key{Hash: auth.Hash(configured)}
	return k.ID().String()
}

type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request with the token.
func (s *site) ask(method, path, body string, header ...string) answer {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), method, "http://admin.internal:8000"+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header[header[i]] = slices.DeleteFunc([]string{header[i+1]}, func(v string) bool { return v == "" })
	}
	resp, err := s.client.Do(r)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(b)}
}

// wants fails the test unless the answer has the status, and returns its JSON.
func (s *site) wants(status int, a answer) map[string]any {
	s.t.Helper()
	if a.status != status {
		s.t.Fatalf("status %d, want %d: %s", a.status, status, a.body)
	}
	var m map[string]any
	if a.body == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(a.body), &m); err != nil || a.header.Get("Content-Type") != "application/json" {
		s.t.Fatalf("%v, %s: %s", err, a.header.Get("Content-Type"), a.body)
	}
	return m
}

// refuses wants an error of that status, code and parameter, and returns its message.
func (s *site) refuses(status int, code, param string, a answer) string {
	s.t.Helper()
	e, _ := s.wants(status, a)["error"].(map[string]any)
	got, _ := e["param"].(string)
	message, _ := e["message"].(string)
	if e["code"] != code || got != param || message == "" || len(e) != 4 {
		s.t.Fatalf("%s, want the code %s and the parameter %q", a.body, code, param)
	}
	return message
}

// makes creates a key and returns its secret and its id.
func (s *site) makes(body string) (key, id string) {
	s.t.Helper()
	m := s.wants(201, s.ask("POST", "/admin/api-keys", body))
	return m["key"].(string), m["id"].(string)
}

// verdict is what the next request with that key gets.
func (s *site) verdict(key string) auth.Verdict {
	_, v := s.ring.Load().Find([]byte(key), s.now())
	return v
}

// raw sends bytes on a connection of its own and returns the answer to a GET.
func (s *site) raw(request string) (*http.Response, string) {
	s.t.Helper()
	c, err := s.listener.Dial()
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, request); err != nil {
		s.t.Fatal(err)
	}
	resp, body, err := readAnswer(c)
	if err != nil {
		s.t.Fatalf("%q: %v", request, err)
	}
	return resp, body
}

// files are the contents of all that the store has written.
func (s *site) files() string {
	s.t.Helper()
	var all strings.Builder
	entries, err := os.ReadDir(s.dir)
	for _, e := range entries {
		b, readErr := os.ReadFile(filepath.Join(s.dir, e.Name()))
		err = errors.Join(err, readErr)
		all.Write(b)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return all.String()
}
