package webhook

import (
	"encoding/base64"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestNewRefuses(t *testing.T) {
	short := "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, 15))
	for name, c := range map[string]struct {
		change func(*Config)
		say    string
	}{
		"a secret that is set and empty":       {func(c *Config) { c.Secret = []byte{} }, "0 bytes"},
		"a prefix without a secret":            {func(c *Config) { c.Secret = []byte("whsec_") }, "0 bytes"},
		"a short secret":                       {func(c *Config) { c.Secret = []byte("hunter2hunter2x") }, "15 bytes"},
		"a secret that is long only in base64": {func(c *Config) { c.Secret = []byte(short) }, "15 bytes"},
		"a secret that is no base64":           {func(c *Config) { c.Secret = []byte("whsec_hunter2!hunter2!hunter2!") }, "base64"},
		"no url":                               {func(c *Config) { c.URL = "" }, "http://"},
		"a url without a host":                 {func(c *Config) { c.URL = "http://:80/" }, "http://"},
		"a url without a scheme":               {func(c *Config) { c.URL = "billing:80" }, "http://"},
		"a url of a file":                      {func(c *Config) { c.URL = "file:///hunter2" }, "http://"},
		"a url that is none":                   {func(c *Config) { c.URL = "http://user:hunter2@host:x" }, "http://"},
		"no node":                              {func(c *Config) { c.Node = "" }, "node"},
		"a node with a dot, which the signed text is split at": {func(c *Config) { c.Node = "gw.example" }, "node"},
		"no dead-letter file": {func(c *Config) { c.DeadLetter = "" }, "dead-letter"},
	} {
		t.Run(name, func(t *testing.T) {
			config := Config{URL: "https://billing.example/hook", Node: "gw", DeadLetter: "dead"}
			if _, err := New(config); err != nil {
				t.Fatal(err)
			}
			c.change(&config)
			_, err := New(config)
			if err == nil || !strings.Contains(err.Error(), c.say) {
				t.Fatalf("it said %v, want something of %s", err, c.say)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("it told a secret: %v", err)
			}
		})
	}
}

// The first is the example that the libraries of Standard Webhooks are tested
// with.
func TestSignature(t *testing.T) {
	const id, timestamp, body = "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", `{"test": 2432232314}`
	for name, c := range map[string]struct{ secret, want string }{
		"a whsec_ secret is base64":       {"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
		"any other is taken as its bytes": {"1234567890abcdef", "v1,DC4gi5roQ5hXY+5YHtYOuZ6DyiRSAH8oNLOrl31or1U="},
	} {
		key, err := signingKey([]byte(c.secret))
		if err != nil {
			t.Fatal(err)
		}
		if got := sign(key, id, timestamp, []byte(body)); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestRequest(t *testing.T) {
	r := newReceiver(t, script(500))
	b := newBench(t, strings.Replace(r.URL, "http://", "http://user:hunter2@", 1), func(c *Config) { c.UserAgent = "llmproxy/1.2.3" })
	began := b.now
	b.sendAll(t, someEvents(2))
	for i, want := range []string{"1750000000", "1750000000"} { // the second is half a second later
		h := r.got()[i].header
		for name, want := range map[string]string{
			"Content-Type":      "application/cloudevents-batch+json; charset=utf-8",
			"User-Agent":        "llmproxy/1.2.3",
			"Webhook-Id":        "gw-1-1-2",
			"Idempotency-Key":   "gw-1-1-2",
			"Webhook-Timestamp": want,
			"Webhook-Signature": sign(b.key, "gw-1-1-2", want, r.got()[i].body),
			"Authorization":     "Basic " + base64.StdEncoding.EncodeToString([]byte("user:hunter2")),
		} {
			if got := h.Get(name); got != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
	}
	events := someEvents(2)
	if got, want := string(r.got()[0].body), "["+string(events[0].Data)+","+string(events[1].Data)+"]"; got != want {
		t.Errorf("the body is %s, want %s", got, want)
	}
	if s := b.Stats(); !s.LastSuccess.After(began) {
		t.Errorf("statistics %+v", s)
	}
}

// The timestamp is the attempt's, or a receiver takes a late batch for a replay.
func TestTimestampIsTheAttempts(t *testing.T) {
	r := newReceiver(t, func(w http.ResponseWriter, n int, _ request) int {
		w.Header().Set("Retry-After", "1800")
		return []int{503, 200}[n]
	})
	b := newBench(t, r.URL, nil)
	b.sendAll(t, someEvents(1))
	q := r.got()[1]
	if got := q.header.Get("Webhook-Timestamp"); got != "1750001800" {
		t.Errorf("half an hour later the timestamp is %s", got)
	}
	if got, want := q.header.Get("Webhook-Signature"), sign(b.key, "gw-1-1-1", "1750001800", q.body); got != want {
		t.Errorf("half an hour later the signature is %s, want %s", got, want)
	}
}

func TestNoSecretNoSignature(t *testing.T) {
	r := newReceiver(t, script())
	newBench(t, r.URL, func(c *Config) { c.Secret = nil }).sendAll(t, someEvents(1))
	if got, ok := r.got()[0].header["Webhook-Signature"]; ok {
		t.Errorf("signed with nothing: %s", got)
	}
}

func TestLogTellsNoSecrets(t *testing.T) {
	for _, status := range []int{302, 400, 401, 404, 413, 422, 500, 410} {
		r := newReceiver(t, func(w http.ResponseWriter, n int, _ request) int {
			if n > 0 && status != 400 {
				return http.StatusOK
			}
			w.Header().Set("Location", "http://a:hunter2@127.0.0.1/?hunter2")
			w.WriteHeader(status)
			_, _ = w.Write([]byte("hunter2"))
			return 0
		})
		url := strings.Replace(r.URL, "http://", "http://user:hunter2@", 1) + "/hook?token=hunter2"
		b := newBench(t, url, func(c *Config) { c.Secret = []byte("hunter2hunter2hunter2") })
		events := someEvents(1)
		events[0].Data = []byte(`{"n":1,"x":"hunter2"}`)
		_ = b.send(t, events)
		if log := b.log.String(); strings.Contains(log, "hunter2") || !strings.Contains(log, r.URL+"/hook") || !strings.Contains(log, "do=") {
			t.Errorf("%d: the log is\n%s", status, log)
		}
	}
	b := newBench(t, "http://user:hunter2@127.0.0.1:1/?hunter2", nil)
	b.onWait = func(time.Duration) error { b.config.URL = newReceiver(t, script()).URL; return nil }
	b.sendAll(t, someEvents(1))
	if log := b.log.String(); strings.Contains(log, "hunter2") || !strings.Contains(log, "refused") {
		t.Errorf("nobody there: the log is\n%s", log)
	}
}

// A receiver that is down for a day does not fill the disk with log lines, and
// one that is back is told of.
func TestLogIsOneLineAMinute(t *testing.T) {
	failing := slices.Repeat([]int{500}, 300)
	b := newBench(t, newReceiver(t, script(failing...)).URL, func(c *Config) { c.Retry = 299 }) // 300 failures in 45 s
	b.sendAll(t, someEvents(1))
	lines := strings.Split(strings.TrimSpace(b.log.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "status=500") || !strings.Contains(lines[1], "failures=300") {
		t.Errorf("the log is\n%s", b.log)
	}
	now := time.Unix(1, 0)
	l := limiter{}
	for range 3 {
		l.allow(now)
	}
	if hidden, ok := l.allow(now.Add(time.Minute)); !ok || hidden != 2 {
		t.Errorf("after a minute: %v, and %d were not logged", ok, hidden)
	}
}

// Where bills go is what the configuration says, whatever the environment does.
func TestClientIsItsOwn(t *testing.T) {
	if newClient().Transport.(*http.Transport).Proxy != nil {
		t.Error("it asks the environment for a proxy")
	}
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	b := newBench(t, server.URL, nil)
	b.onWait = func(time.Duration) error { b.config.URL = newReceiver(t, script()).URL; return nil }
	b.sendAll(t, someEvents(1))
	if got := b.Stats().Attempts["unreachable"]; got != 1 || !strings.Contains(b.log.String(), "certificate") {
		t.Errorf("a certificate of nobody: %d, log %s", got, b.log)
	}
}
