package webhook

import (
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// pauses are named as the table below has them; the tests' jitter is 0.5.
const (
	short = 150 * time.Millisecond
	slow  = 500 * time.Millisecond
)

func TestAnswers(t *testing.T) {
	failing := slices.Repeat([]int{500}, 70)
	growing := []time.Duration{slow, 2 * slow, 4 * slow, 8 * slow, 16 * slow, 32 * slow, 64 * slow, 128 * slow, 256 * slow}
	for name, c := range map[string]struct {
		statuses []int
		retry    int
		waits    []time.Duration
		result   string // of the attempts with these statuses
	}{
		"201 is a success":                       {[]int{201}, 2, nil, "delivered"},
		"202 is a success":                       {[]int{202}, 2, nil, "delivered"},
		"408 passes":                             {[]int{408}, 2, []time.Duration{short}, "busy"},
		"425 passes":                             {[]int{425}, 2, []time.Duration{short}, "busy"},
		"429 passes":                             {[]int{429}, 2, []time.Duration{short}, "busy"},
		"500 passes":                             {[]int{500}, 2, []time.Duration{short}, "busy"},
		"503 passes":                             {[]int{503}, 2, []time.Duration{short}, "busy"},
		"599 passes":                             {[]int{599}, 2, []time.Duration{short}, "busy"},
		"the pauses grow only after the retries": {failing[:5], 2, []time.Duration{short, short, slow, 2 * slow, 4 * slow}, "busy"},
		"no retry, no short pause":               {failing[:2], 0, []time.Duration{slow, 2 * slow}, "busy"},
		"the pauses end growing at 5 minutes":    {failing, 0, slices.Concat(growing, slices.Repeat([]time.Duration{150 * time.Second}, 61)), "busy"},
		"401 is not asked again at once":         {[]int{401, 401}, 2, []time.Duration{slow, 2 * slow}, "refused"},
		"403 is not asked again at once":         {[]int{403}, 2, []time.Duration{slow}, "refused"},
		"404 is not asked again at once":         {[]int{404}, 2, []time.Duration{slow}, "refused"},
		"405 is not asked again at once":         {[]int{405}, 2, []time.Duration{slow}, "refused"},
		"409 loses nothing":                      {[]int{409}, 2, []time.Duration{slow}, "refused"},
		"a 3xx without Location loses nothing":   {[]int{304}, 2, []time.Duration{slow}, "redirected"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t, script(c.statuses...))
			b := newBench(t, r.URL, func(config *Config) { config.Retry = c.retry })
			b.sendAll(t, someEvents(3))
			if !slices.Equal(b.waits, c.waits) {
				t.Errorf("it waited %v, want %v", b.waits, c.waits)
			}
			s := b.Stats()
			if s.Attempts[c.result] != uint64(len(c.statuses)) {
				t.Errorf("attempts %v, want %d %s", s.Attempts, len(c.statuses), c.result)
			}
			if s.Attempts["delivered"] != 1 || s.Batches != 1 || s.Events != 3 || s.Dead != 0 || s.Failures != 0 || !s.LastSuccess.Equal(b.now) {
				t.Errorf("after a delivery the statistics are %+v", s)
			}
			if len(s.Attempts) != 9 {
				t.Errorf("not all results are counted: %v", s.Attempts)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Unix(1_750_000_000, 0).UTC()
	for name, c := range map[string]struct {
		value string
		want  time.Duration
	}{
		"seconds are waited":                       {"7", 7 * time.Second},
		"a date is waited for":                     {now.Add(90 * time.Second).Format(http.TimeFormat), 90 * time.Second},
		"a day is cut to an hour":                  {"86400", time.Hour},
		"a number too large for any is an hour":    {"99999999999999999999999", time.Hour},
		"a number too large for a time":            {"9223372036854775807", time.Hour},
		"a date next year is cut to an hour":       {now.AddDate(1, 0, 0).Format(http.TimeFormat), time.Hour},
		"a date in the past is no wait of its own": {now.Add(-time.Hour).Format(http.TimeFormat), short},
		"0 does not make it hurry":                 {"0", short},
		"a negative one is none":                   {"-5", short},
		"what is no time is none":                  {"soon", short},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t, func(w http.ResponseWriter, n int, _ request) int {
				if n == 0 {
					w.Header().Set("Retry-After", c.value)
					return http.StatusTooManyRequests
				}
				return http.StatusOK
			})
			b := newBench(t, r.URL, func(c *Config) { c.Retry = 1 })
			b.sendAll(t, someEvents(1))
			if !slices.Equal(b.waits, []time.Duration{c.want}) {
				t.Errorf("it waited %v, want %v", b.waits, c.want)
			}
		})
	}
}

func TestBrokenConnections(t *testing.T) {
	raw := func(t *testing.T, w http.ResponseWriter, text string) int {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return 0
		}
		_, _ = conn.Write([]byte(text))
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
		return 0
	}
	for name, c := range map[string]struct {
		text     string
		requests int
	}{
		"a reset before the answer is no answer":        {"", 2},
		"a reset within the head is no answer":          {"HTTP/1.1 200 OK\r\nContent-Le", 2},
		"a reset within the body of a 200 is a 200":     {"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nabc", 1},
		"a reset within the chunks of a 200 is a 200":   {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", 1},
		"a reset within the body of a 500 is a 500":     {"HTTP/1.1 500 No\r\nContent-Length: 1000\r\n\r\nabc", 2},
		"what is no HTTP is no answer":                  {"SSH-2.0-OpenSSH\r\n", 2},
		"an early hint is no answer yet":                {"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 1},
		"a status that HTTP does not have is no answer": {"HTTP/1.1 20 OK\r\n\r\n", 2},
	} {
		t.Run(name, func(t *testing.T) {
			r := newReceiver(t, func(w http.ResponseWriter, n int, _ request) int {
				if n == 0 {
					return raw(t, w, c.text)
				}
				return http.StatusOK
			})
			b := newBench(t, r.URL, nil)
			b.sendAll(t, someEvents(2))
			if got := len(r.got()); got != c.requests {
				t.Errorf("%d requests, want %d; attempts %v", got, c.requests, b.Stats().Attempts)
			}
		})
	}
}

func TestSlowAnswerIsTriedAgain(t *testing.T) {
	release := make(chan struct{})
	r := newReceiver(t, func(_ http.ResponseWriter, n int, _ request) int {
		if n == 0 {
			<-release
		}
		return http.StatusOK
	})
	b := newBench(t, r.URL, func(c *Config) { c.Timeout = 100 * time.Millisecond })
	b.onWait = func(time.Duration) error { close(release); return nil }
	b.sendAll(t, someEvents(1))
	if got := b.Stats().Attempts; got["timeout"] != 1 || got["delivered"] != 1 {
		t.Errorf("attempts %v", got)
	}
}

func TestSlowBodyDoesNotUndoTheStatus(t *testing.T) {
	r := newReceiver(t, func(w http.ResponseWriter, _ int, q request) int {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		<-q.done
		return 0
	})
	b := newBench(t, r.URL, func(c *Config) { c.Timeout = 50 * time.Millisecond })
	b.sendAll(t, someEvents(1))
	if got := b.Stats().Attempts; got["delivered"] != 1 || len(r.got()) != 1 {
		t.Errorf("attempts %v, %d requests", got, len(r.got()))
	}
}

func TestNobodyThereLosesNothing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	b := newBench(t, "http://"+l.Addr().String(), nil)
	ended := errors.New("enough")
	tries := 0
	b.onWait = func(time.Duration) error {
		if tries++; tries == 3 {
			b.config.URL = newReceiver(t, script()).URL
		}
		return ended
	}
	b.sendAll(t, someEvents(1))
	if got := b.Stats().Attempts["unreachable"]; got != 3 {
		t.Errorf("%d attempts met nobody, want 3", got)
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	other := newReceiver(t, script())
	for _, status := range []int{301, 302, 303, 307, 308} {
		r := newReceiver(t, func(w http.ResponseWriter, n int, _ request) int {
			if n == 0 {
				w.Header().Set("Location", other.URL+"/new?token=hidden")
				return status
			}
			return http.StatusOK
		})
		b := newBench(t, r.URL, nil)
		b.sendAll(t, someEvents(1))
		if got := len(r.got()); got != 2 {
			t.Errorf("%d: %d requests, want 2", status, got)
		}
		log := b.log.String()
		if !strings.Contains(log, other.URL+"/new") || !strings.Contains(log, "usage_hook.url") || strings.Contains(log, "hidden") {
			t.Errorf("%d: the log does not tell what to do: %s", status, log)
		}
	}
	if len(other.got()) != 0 {
		t.Error("the bill went elsewhere")
	}
}

func TestGoneEndsForGood(t *testing.T) {
	r := newReceiver(t, script(204, 500, 410))
	b := newBench(t, r.URL, func(c *Config) { c.MaxEvents = 2 })
	for range 2 {
		if err := b.send(t, someEvents(6)); !errors.Is(err, ErrGone) {
			t.Fatalf("the sender ended with %v", err)
		}
	}
	if s := b.Stats(); len(r.got()) != 3 || !s.Stopped || s.Attempts["gone"] != 1 {
		t.Errorf("%d requests, want 3; %+v", len(r.got()), s)
	}
	if !slices.Equal(b.acks, []uint64{2}) {
		t.Errorf("acknowledged %v, want what was accepted", b.acks)
	}
	if !strings.Contains(b.log.String(), "status=410") {
		t.Errorf("nobody was told: %s", b.log)
	}
}

func TestEndlessBodiesAreCut(t *testing.T) {
	written := make(chan int, 10)
	r := newReceiver(t, func(w http.ResponseWriter, n int, _ request) int {
		w.WriteHeader([]int{500, 200}[n])
		block, sum := make([]byte, 32<<10), 0
		for sum < 100<<20 {
			k, err := w.Write(block)
			if sum += k; err != nil {
				break
			}
		}
		written <- sum
		return 0
	})
	b := newBench(t, r.URL, nil)
	b.sendAll(t, someEvents(1))
	for range 2 {
		if sum := <-written; sum >= 100<<20 {
			t.Errorf("it read %d bytes of an answer", sum)
		}
	}
}

func TestEndlessHeadIsCut(t *testing.T) {
	r := newReceiver(t, func(w http.ResponseWriter, n int, _ request) int {
		if n == 0 {
			w.Header().Set("X-Long", strings.Repeat("a", 1<<20))
		}
		return http.StatusOK
	})
	b := newBench(t, r.URL, nil)
	b.sendAll(t, someEvents(1))
	if got := b.Stats().Attempts; got["unreachable"] != 1 || got["delivered"] != 1 {
		t.Errorf("attempts %v", got)
	}
}
