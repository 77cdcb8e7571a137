package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/llmproxy/llmproxy/pkg/route"
)

// engine answers checks as its fields say at the moment.
type engine struct {
	mu     sync.Mutex
	status int
	err    error
	hangs  bool
	asked  []time.Time
	urls   map[string]bool
}

func (e *engine) set(status int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status, e.err, e.hangs = status, err, false
}

func (e *engine) hang() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.hangs = true
}

func (e *engine) check(ctx context.Context, url string) (int, error) {
	e.mu.Lock()
	e.asked = append(e.asked, time.Now())
	if e.urls == nil {
		e.urls = map[string]bool{}
	}
	e.urls[url] = true
	status, err, hangs := e.status, e.err, e.hangs
	e.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return status, err
}

// next lets time go by until one more check is over.
func (e *engine) next() {
	asked := func() int {
		e.mu.Lock()
		defer e.mu.Unlock()
		return len(e.asked)
	}
	for n := asked(); asked() == n; {
		after(10 * time.Millisecond)
	}
}

var (
	refused = &net.OpError{Op: "dial", Err: fmt.Errorf("connect: %w", syscall.ECONNREFUSED)}
	noHost  = &net.DNSError{Err: "no such host", Name: "gpu-1.internal", IsNotFound: true}
	reset   = &net.OpError{Op: "read", Err: syscall.ECONNRESET}
)

// strict is the options of a production gateway.
func strict() Options {
	return Options{Interval: 5 * time.Second, Timeout: 3 * time.Second, Path: "/health", UnhealthyThreshold: 3, HealthyThreshold: 2}
}

func table(t *testing.T, n int) *route.Table {
	t.Helper()
	var c route.TableConfig
	for i := range n {
		c.Backends = append(c.Backends, route.BackendConfig{Name: fmt.Sprintf("b%d", i), URL: fmt.Sprintf("http://b%d:8000/", i)})
	}
	table, err := route.Build(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// watchOne starts checks of one backend against e. flips collects what OnFlip
// was told; read it when the bubble is idle only.
func watchOne(t *testing.T, e *engine, o Options) (b *route.Backend, flips *[]string, c *Checker) {
	t.Helper()
	flips = new([]string)
	o.OnFlip = func(_ *route.Backend, healthy bool, reason string) {
		*flips = append(*flips, fmt.Sprintf("%t %s", healthy, reason))
	}
	routes := table(t, 1)
	c = Start(t.Context(), routes, o, func(*route.Backend) Check { return e.check })
	return routes.Backends()[0], flips, c
}

// after lets d of the bubble's time go by.
func after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestAnswersThatMeanAlive(t *testing.T) {
	for _, c := range []struct {
		status  int
		err     error
		healthy bool
	}{
		{status: 200, healthy: true},
		{status: 204, healthy: true},
		{status: 307, healthy: true},
		{status: 401, healthy: true},
		{status: 403, healthy: true},
		{status: 404, healthy: true},
		{status: 405, healthy: true},
		{status: 429, healthy: true},
		{status: 501, healthy: true},
		{status: 500},
		{status: 502},
		{status: 503},
		{status: 0},
		{err: reset},
		{err: errors.New("tls: unknown authority")},
	} {
		synctest.Test(t, func(t *testing.T) {
			b, flips, checker := watchOne(t, &engine{status: c.status, err: c.err}, strict())
			defer checker.Close()
			after(time.Minute)
			if b.Healthy() != c.healthy {
				t.Errorf("status %d, error %v: healthy %t", c.status, c.err, b.Healthy())
			}
			if want := map[bool]int{false: 1}[c.healthy]; len(*flips) != want {
				t.Errorf("status %d, error %v: flips %q", c.status, c.err, *flips)
			}
		})
	}
}

func TestThresholds(t *testing.T) {
	answers := map[rune]error{'+': nil, '-': errors.New("cannot accept status 503"), 'x': refused, '?': noHost, 'r': reset}
	for _, c := range []struct{ what, checks, healthy string }{
		{"all is well", "++++", "yyyy"},
		{"three failures in a row", "+---+", "yyynn"},
		{"two are not enough, nor are three apart", "+--+--+-", "yyyyyyyy"},
		{"two good ones in a row bring it back", "---+-++-", "yynnnnyy"},
		{"nobody listens when the gateway starts", "x++", "nny"},
		{"the name does not resolve when the gateway starts", "?x++", "nnny"},
		{"a connection lost at the first check may be chance", "r+", "yy"},
		{"refused once later is a failure as any other", "+x+xx+xxx", "yyyyyyyyn"},
	} {
		synctest.Test(t, func(t *testing.T) {
			asked := make(chan struct{})
			n := -1
			var flips []string
			o := strict()
			o.OnFlip = func(_ *route.Backend, healthy bool, reason string) {
				flips = append(flips, fmt.Sprintf("%t: %s", healthy, reason))
			}
			routes := table(t, 1)
			checker := Start(t.Context(), routes, o, func(*route.Backend) Check {
				return func(ctx context.Context, _ string) (int, error) {
					select {
					case <-asked:
					case <-ctx.Done():
						return 0, ctx.Err()
					}
					n++
					return 200, answers[rune(c.checks[n])]
				}
			})
			defer checker.Close()
			verdict, changes := byte('y'), 0
			for i := range c.checks {
				asked <- struct{}{}
				synctest.Wait()
				if routes.Backends()[0].Healthy() != (c.healthy[i] == 'y') {
					t.Errorf("%s: after check %d of %s healthy is not %c", c.what, i+1, c.checks, c.healthy[i])
				}
				if c.healthy[i] != verdict {
					verdict = c.healthy[i]
					changes++
				}
			}
			if len(flips) != changes {
				t.Errorf("%s: %d changes, told of %q", c.what, changes, flips)
			}
			for _, f := range flips {
				if strings.HasSuffix(f, ": ") || strings.HasPrefix(f, "true") != strings.HasSuffix(f, "status 200") {
					t.Errorf("%s: the reason of %q is none", c.what, f)
				}
			}
		})
	}
}

// A process that was stopped (SIGSTOP) still accepts connections.
func TestAHangingEngineIsDeadInTime(t *testing.T) {
	for range 20 { // whatever the jitter
		synctest.Test(t, func(t *testing.T) {
			e := &engine{status: 200}
			b, _, checker := watchOne(t, e, strict())
			defer checker.Close()
			after(time.Minute)
			e.hang()
			after(3*5*time.Second + 3*time.Second)
			if b.Healthy() {
				t.Error("still healthy after interval x threshold + timeout")
			}
		})
	}
}

func TestChecksAreSpreadAndOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engines := make([]*engine, 50)
		for i := range engines {
			engines[i] = &engine{status: 200}
		}
		start := time.Now()
		checker := Start(t.Context(), table(t, len(engines)), strict(), func(b *route.Backend) Check { return engines[b.Index].check })
		defer checker.Close()
		after(time.Minute)
		first, gaps := map[time.Duration]bool{}, map[time.Duration]bool{}
		for i, e := range engines {
			if url := fmt.Sprintf("http://b%d:8000/health", i); !e.urls[url] || len(e.urls) != 1 {
				t.Fatalf("engine %d was asked at %v", i, e.urls)
			}
			if e.asked[0].Sub(start) > time.Second {
				t.Errorf("engine %d was first asked after %v", i, e.asked[0].Sub(start))
			}
			first[e.asked[0].Sub(start)] = true
			for n := 1; n < len(e.asked); n++ {
				gap := e.asked[n].Sub(e.asked[n-1])
				gaps[gap] = true
				if gap > 5*time.Second || gap < 4500*time.Millisecond {
					t.Errorf("engine %d was asked again after %v", i, gap)
				}
			}
		}
		if len(gaps) < len(engines) {
			t.Errorf("checks keep in step: %d gaps", len(gaps))
		}
		if len(first) < len(engines)/2 {
			t.Errorf("%d engines were first asked at only %d moments", len(engines), len(first))
		}
	})
}

func TestCloseEndsAHangingCheckWithoutVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &engine{}
		e.hang()
		o := strict()
		o.UnhealthyThreshold = 1
		b, flips, checker := watchOne(t, e, o)
		after(2 * time.Second) // the first check hangs, its timeout is not over
		checker.Close()
		checker.Close()
		if !b.Healthy() || len(*flips) != 0 {
			t.Errorf("closing counted as a failed check: %q", *flips)
		}
		asked := len(e.asked)
		after(time.Minute)
		if len(e.asked) != asked {
			t.Error("checks went on after Close")
		}
	})
}

func TestChecksEndAnEjectionByADialError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &engine{status: 200}
		b, flips, checker := watchOne(t, e, strict())
		defer checker.Close()
		after(time.Minute)
		b.Failed(route.FailDial, time.Now())
		e.set(503, nil)
		e.next()
		if !b.Ejected() {
			t.Error("a failed check ended an ejection")
		}
		e.set(200, nil)
		e.next()
		if b.Ejected() || len(*flips) != 0 {
			t.Errorf("ejected %t after a good check, flips %q", b.Ejected(), *flips)
		}
	})
}

func TestWithoutChecksABackendIsHealthyAgain(t *testing.T) {
	routes := table(t, 2)
	routes.Backends()[1].SetHealthy(false)
	checker := Start(t.Context(), routes, Options{}, nil)
	defer checker.Close()
	if !routes.Backends()[1].Healthy() {
		t.Error("checks were switched off by a reload, and a backend stays unhealthy for ever")
	}
}
