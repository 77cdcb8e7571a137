package app_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// The keys of an attacked site. Mallory is a customer who may use mock-model, and
// nothing of what is the victim's.
const (
	attackVictim   = "sk-victim-7Qm2xKfT9bLw4Zp1"
	attackMallory  = "sk-mallory-3HnR8vYc5dGj6Ws0"
	attackDisabled = "sk-disabled-1aUe7iOq4mXz9Bt2"
	attackExpired  = "sk-expired-6pLk2sJd8gHf5Nv3"
	attackToken    = "admin-Tq8Zr2Lm6Xc4Vb1Np7"
	attackBearer   = "Authorization: Bearer "
)

// attackSite is a gateway that asks for keys, in front of one engine. Each client
// comes from an address of its own: who fails is slowed by address.
type attackSite struct {
	*apptest.Gateway
	engine  *apptest.Engine
	made    string // a key in the form of those that the gateway makes
	clients int
}

func startAttacked(t *testing.T, more string) *attackSite {
	t.Helper()
	onLinux(t) // elsewhere 127.0.0.1 is the only address of its network
	made, err := auth.Mint()
	if err != nil {
		t.Fatal(err)
	}
	admin := "admin: {token: " + attackToken + "}\n"
	if strings.Contains(more, "admin:") {
		admin = ""
	}
	s := &attackSite{made: made, engine: apptest.StartEngine(t, mockvllm.Options{Models: []string{"mock-model", "secret-model"}, StepBase: time.Millisecond})}
	s.Gateway = apptest.Start(t, fmt.Sprintf(`backends: [{url: %q, name: e0, models: [mock-model, secret-model]}]
data_dir: %q
health_check: {enabled: false}
%srouting: {model_mapping: {secret-alias: secret-model, alias: mock-model}}
api_keys:
  - {key: %s, name: victim}
  - {key: %s, name: mallory, allowed_models: [mock-model]}
  - {key: %s, name: disabled, status: disabled}
  - {key: %s, name: expired, expires_at: 2020-01-01T00:00:00Z}
  - {key: %s, name: made}
%s`, s.engine.URL, filepath.Join(t.TempDir(), "data"), admin, attackVictim, attackMallory, attackDisabled, attackExpired, made, more))
	return s
}

// dial connects a client from an address that none had before.
func (s *attackSite) dial(t *testing.T) *rawClient {
	t.Helper()
	s.clients++
	return dialFrom(t, s.Addr, fmt.Sprintf("127.1.%d.%d", s.clients/200, 1+s.clients%200))
}

func dialFrom(t *testing.T, addr, from string) *rawClient {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &rawClient{t: t, Conn: c, br: bufio.NewReader(c)}
}

// try sends a request and returns the answer, and how often the engine was asked.
func (s *attackSite) try(t *testing.T, raw string) (resp *http.Response, body string, asked int) {
	t.Helper()
	before := len(s.engine.Ledger())
	c := s.dial(t)
	defer c.Close()
	c.send(raw)
	method, _, _ := strings.Cut(raw, " ")
	resp, body = c.answer(method)
	return resp, body, len(s.engine.Ledger()) - before
}

// hasCode tells whether an error body has that code.
func hasCode(body, code string) bool { return strings.Contains(body, `"code":"`+code+`"`) }

// attackTry is what is sent for a key, and what that gets.
type attackTry struct {
	name   string
	query  string
	lines  []string
	status int
}

func credentialAttacks(made string) []attackTry {
	sum := sha256.Sum256([]byte(attackVictim))
	hash, id := hex.EncodeToString(sum[:]), auth.ID(sum[:8]).String()
	mistyped := made[:len(made)-1] + map[bool]string{true: "b", false: "a"}[strings.HasSuffix(made, "a")]
	basic := base64.StdEncoding.EncodeToString([]byte(attackVictim + ":"))
	bearer := func(s string) []string { return []string{attackBearer + s} }
	return []attackTry{
		{"the key itself", "", bearer(attackVictim), 200},
		{"a made key", "", bearer(made), 200},
		{"X-Api-Key", "", []string{"X-Api-Key: " + attackVictim}, 200},
		{"api-key", "", []string{"api-key: " + attackVictim}, 200},
		{"the scheme in another case", "", []string{"authorization: bEARER " + attackVictim}, 200},
		{"many spaces", "", []string{"Authorization:   Bearer    " + attackVictim + "   "}, 200},
		{"two headers, one key", "", []string{attackBearer + attackVictim, "X-Api-Key: " + attackVictim}, 200},
		{"a header twice, one key", "", []string{"X-Api-Key: " + attackVictim, "X-Api-Key: " + attackVictim}, 200},
		{"another scheme beside the key", "", []string{"Authorization: Basic " + basic, "X-Api-Key: " + attackVictim}, 200},

		{"nothing", "", nil, 401},
		{"in the query", "?api_key=" + attackVictim, nil, 401},
		{"in the query as key", "?key=" + attackVictim + "&access_token=" + attackVictim, nil, 401},
		{"in a cookie", "", []string{"Cookie: api_key=" + attackVictim + "; Authorization=Bearer " + attackVictim}, 401},
		{"for a proxy", "", []string{"Proxy-Authorization: Bearer " + attackVictim}, 401},
		{"Basic", "", []string{"Authorization: Basic " + basic}, 401},
		{"without a scheme", "", []string{"Authorization: " + attackVictim}, 401},
		{"another scheme", "", []string{"Authorization: Token " + attackVictim}, 401},
		{"a scheme that begins like it", "", []string{"Authorization: Bearerx " + attackVictim}, 401},
		{"empty", "", []string{"Authorization: Bearer"}, 401},
		{"blank", "", []string{"Authorization: Bearer      "}, 401},
		{"a header with the scheme", "", []string{"X-Api-Key: Bearer " + attackVictim}, 401},
		{"a header with an underscore", "", []string{"X_Api_Key: " + attackVictim}, 401},

		{"a prefix", "", bearer(attackVictim[:len(attackVictim)-1]), 401},
		{"more than the key", "", bearer(attackVictim + "0"), 401},
		{"the key twice", "", bearer(attackVictim + " " + attackVictim), 401},
		{"a list", "", bearer(attackVictim + ", " + attackMallory), 401},
		{"another case", "", bearer(strings.ToUpper(attackVictim)), 401},
		{"escapes", "", bearer(strings.Replace(attackVictim, "-", "%2D", 1)), 401},
		{"quotes", "", bearer(`"` + attackVictim + `"`), 401},
		{"its hash", "", bearer(hash), 401},
		{"its hash as it is configured", "", bearer("sha256:" + hash), 401},
		{"its hash in base64", "", bearer(base64.StdEncoding.EncodeToString(sum[:])), 401},
		{"its id", "", bearer(id), 401},
		{"its name", "", bearer("victim"), 401},
		{"a wrong checksum", "", bearer(mistyped), 401},
		{"a made key's prefix", "", bearer("sk-llmproxy-"), 401},
		{"disabled", "", bearer(attackDisabled), 401},
		{"expired", "", bearer(attackExpired), 401},
		{"the admin token", "", bearer(attackToken), 401},
		{"beyond ASCII", "", bearer(attackVictim + "é\xff"), 401},
		{"15 KiB", "", bearer(strings.Repeat("k", 15<<10)), 401},

		{"two headers, two keys", "", []string{attackBearer + attackVictim, "X-Api-Key: " + attackMallory}, 400},
		{"two headers, two keys, the other way round", "", []string{"api-key: " + attackMallory, attackBearer + attackVictim}, 400},
		{"two headers, one key of nobody's", "", []string{attackBearer + attackVictim, "api-key: sk-nobody"}, 400},
		{"three headers, the last another", "", []string{attackBearer + attackVictim, "X-Api-Key: " + attackVictim, "Api-Key: " + attackMallory}, 400},
		{"a header twice, two keys", "", []string{"X-Api-Key: " + attackVictim, "X-Api-Key: " + attackMallory}, 400},
		{"a header twice, the second of nobody's", "", []string{"Api-Key: " + attackVictim, "api-key: sk-nobody"}, 400},
		{"Authorization twice", "", []string{attackBearer + attackVictim, attackBearer + attackMallory}, 400},
		{"Authorization twice, one key", "", []string{attackBearer + attackVictim, attackBearer + attackVictim}, 400},
		{"Authorization on two lines", "", []string{"Authorization: Bearer", " " + attackVictim}, 400},
		{"a NUL", "", bearer(attackVictim + "\x00"), 400},
		{"a NUL before", "", bearer("\x00" + attackVictim), 400},
		{"a blank in a header's name", "", []string{"X-Api-Key : " + attackVictim}, 400},
		{"64 KiB", "", bearer(strings.Repeat("k", 64<<10)), 431},
	}
}

// TestAttackCredentials: a key is the whole key, in a header that is for it, and
// there is one.
func TestAttackCredentials(t *testing.T) {
	leavesNothing(t)
	s := startAttacked(t, "")
	for _, w := range credentialAttacks(s.made) {
		t.Run(w.name, func(t *testing.T) {
			for _, path := range []string{chatPath, "/v1/messages"} {
				resp, body, asked := s.try(t, post(path+w.query, wholeChat, w.lines...))
				if resp.StatusCode != w.status || asked != map[bool]int{true: 1}[w.status == 200] {
					t.Errorf("%s: %d %s, want %d; the engine was asked %d times", path, resp.StatusCode, body, w.status, asked)
				}
				if w.status == 401 && path == chatPath && !hasCode(body, "invalid_api_key") {
					t.Errorf("no SDK knows this: %s", body)
				}
				if w.status == 401 && path != chatPath && !strings.Contains(body, `"type":"authentication_error"`) {
					t.Errorf("Anthropic's SDK does not know this: %s", body)
				}
			}
		})
	}
	quiet(t, s.Gateway)
}

// ownWords are what differs between two answers that are the same.
var ownWords = regexp.MustCompile(`(?m)^((X-Request-Id|Request-Id|Date): ).*\r$`)

// TestAttackRefusalsLookAlike: whether a key once was one is nobody's business, and
// must not show in a single byte.
func TestAttackRefusalsLookAlike(t *testing.T) {
	leavesNothing(t)
	s := startAttacked(t, "rate_limit: {enabled: true, per_key: {requests_per_minute: 1000, tokens_per_minute: 100000}}\n")
	big := `{"model":"mock-model","messages":[{"role":"user","content":"` + strings.Repeat("x", 100<<10) + `"}]}`
	form := (&upload{size: 1000}).request(t, "mock-model")
	for name, raw := range map[string]string{
		"chat":     post(chatPath, wholeChat, attackBearer+"KEY"),
		"stream":   post(chatPath, streamChat, attackBearer+"KEY"),
		"messages": post("/v1/messages", wholeChat, "X-Api-Key: KEY"),
		"no model": post(chatPath, `{}`, attackBearer+"KEY"),
		"no JSON":  post(chatPath, `{`, attackBearer+"KEY"),
		"models":   "GET /v1/models HTTP/1.1\r\nHost: gateway\r\nApi-Key: KEY\r\n\r\n",
		"usage":    "GET /v1/usage HTTP/1.1\r\nHost: gateway\r\nApi-Key: KEY\r\n\r\n",
		"stored":   "GET /v1/responses/resp_1 HTTP/1.1\r\nHost: gateway\r\nApi-Key: KEY\r\n\r\n",
		"large":    post(chatPath, big, attackBearer+"KEY"),
		"form":     strings.Replace(form, "\r\n\r\n", "\r\n"+attackBearer+"KEY\r\n\r\n", 1),
		"expect":   strings.Replace(post(chatPath, wholeChat, attackBearer+"KEY", "Expect: 100-continue"), wholeChat, "", 1),
	} {
		t.Run(name, func(t *testing.T) {
			want := ""
			for _, key := range []string{"sk-nobody", attackDisabled, attackExpired, s.made[:len(s.made)-4] + "0000"} {
				c := s.dial(t)
				c.send(strings.Replace(strings.Replace(raw, "KEY", key, 1), "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
				got := ownWords.ReplaceAllString(c.ended(), "$1*\r")
				c.Close()
				if want == "" {
					want = got
				}
				if !strings.HasPrefix(got, "HTTP/1.1 401 ") || got != want || strings.Contains(got, "X-Ratelimit") {
					t.Errorf("%s gets\n%s\nand a key that nobody has\n%s", key, got, want)
				}
			}
		})
	}
	if n := len(s.engine.Ledger()); n != 0 {
		t.Errorf("the engine was asked %d times", n)
	}
	quiet(t, s.Gateway)
}
