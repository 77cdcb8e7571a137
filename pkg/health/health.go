// Package health asks each engine at intervals whether it is alive, and tells
// the routing table's backends the verdict.
package health

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/llmproxy/llmproxy/pkg/route"
)

// Options say how often and how strictly backends are checked.
type Options struct {
	// Interval lies between the starts of two checks of a backend, less up to
	// 10 % of jitter. 0 or less: no checks, every backend counts as healthy.
	Interval time.Duration
	// Timeout ends a check that has had no answer; 0 or less: after Interval.
	Timeout time.Duration
	// Path follows the backend's URL, path prefix included.
	Path string
	// UnhealthyThreshold is how many checks in a row must fail before a
	// backend is unhealthy, HealthyThreshold how many must succeed before it
	// is healthy again. Less than 1 counts as 1. An engine that gives no answer
	// is dead after UnhealthyThreshold times the longer of Interval and Timeout,
	// plus Timeout, at the latest.
	UnhealthyThreshold, HealthyThreshold int
	// OnFlip is told of each change of verdict, once; nil: nobody is. It is
	// called from a goroutine per backend, so perhaps from several at a time.
	// The reason is fit for a log.
	OnFlip func(b *route.Backend, healthy bool, reason string)
}

// Check asks one engine: it GETs the URL, follows no redirect, and returns the
// status. It must return soon after ctx ends.
type Check func(ctx context.Context, url string) (status int, err error)

// Checker runs the checks of one table.
type Checker struct {
	options Options
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// Start checks every backend of the table, each in a goroutine of its own, until
// ctx ends or Close is called. The first checks are spread over the interval, or
// over one second when that is less. client gives the Check to use for a
// backend; it is called once for each, before Start returns.
//
// A backend counts as healthy until the checks say otherwise. Only its first
// check, when the connection is refused or the name does not resolve, is enough
// to call it unhealthy: an engine that is not there yet gets no request.
func Start(ctx context.Context, table *route.Table, o Options, client func(b *route.Backend) Check) *Checker {
	o.UnhealthyThreshold = max(o.UnhealthyThreshold, 1)
	o.HealthyThreshold = max(o.HealthyThreshold, 1)
	if o.Timeout <= 0 {
		o.Timeout = o.Interval
	}
	ctx, cancel := context.WithCancel(ctx)
	c := &Checker{options: o, cancel: cancel}
	for _, b := range table.Backends() {
		if o.Interval <= 0 {
			c.verdict(b, true, "health checks are off")
			continue
		}
		w := &watch{checker: c, backend: b, check: client(b), url: strings.TrimRight(b.URL, "/") + o.Path}
		c.running.Go(func() { w.run(ctx) })
	}
	return c
}

// Close ends the checks and waits for those under way. It may be called again.
func (c *Checker) Close() {
	c.cancel()
	c.running.Wait()
}

func (c *Checker) verdict(b *route.Backend, healthy bool, reason string) {
	if b.SetHealthy(healthy) && c.options.OnFlip != nil {
		c.options.OnFlip(b, healthy, reason)
	}
}

// watch is the checks of one backend.
type watch struct {
	checker *Checker
	backend *route.Backend
	check   Check
	url     string

	checked        bool
	failed, passed int // checks in a row
}

func (w *watch) run(ctx context.Context) {
	o := w.checker.options
	timer := time.NewTimer(rand.N(min(o.Interval, time.Second)))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		start := time.Now()
		reason, err := w.ask(ctx)
		if ctx.Err() != nil {
			return // the check was cut short: it says nothing
		}
		w.count(reason, err)
		// The jitter only ever shortens: the time until a dead engine is known
		// stays within what Options promise.
		next := o.Interval - rand.N(o.Interval/10+1)
		timer.Reset(max(next-time.Since(start), 0))
	}
}

// ask makes one check. Any answer counts but a server error: 404, 405 and 501
// come from an engine without such an endpoint, 401 and 403 from one that
// guards it, 3xx from one that has it elsewhere. All of them are alive.
func (w *watch) ask(ctx context.Context) (reason string, err error) {
	ctx, cancel := context.WithTimeout(ctx, w.checker.options.Timeout)
	defer cancel()
	status, err := w.check(ctx, w.url)
	if err != nil {
		return "", err
	}
	if status < 200 || status >= 500 && status != 501 {
		return "", fmt.Errorf("cannot accept status %d", status)
	}
	return fmt.Sprintf("status %d", status), nil
}

func (w *watch) count(reason string, err error) {
	first := !w.checked
	w.checked = true
	if err != nil {
		w.passed = 0
		w.failed++
		if w.failed >= w.checker.options.UnhealthyThreshold || first && absent(err) {
			w.checker.verdict(w.backend, false, err.Error())
		}
		return
	}
	w.failed = 0
	w.passed++
	// A healthy backend is told too: it ends an ejection by a dial error.
	if w.backend.Healthy() || w.passed >= w.checker.options.HealthyThreshold {
		w.checker.verdict(w.backend, true, reason)
	}
}

// absent reports whether nobody can be there: the connection was refused, or the
// host has no address.
func absent(err error) bool {
	var dns *net.DNSError
	return errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &dns)
}
