package app_test

import (
	"sync"
	"testing"
	"time"
)

// clusterStretch is a part of the time of a load, in which 1 % of the requests may
// take so much longer than before.
type clusterStretch struct {
	name     string
	from, to time.Duration
	added    time.Duration
}

// judge compares it with the time before, unless this machine was busy with something
// else: a request is in the hands of four processes.
func (w clusterStretch) judge(t *testing.T, calls []clusterCall, lag *clusterLag, before clusterStretch) {
	t.Helper()
	at := func(q float64, w clusterStretch) time.Duration { return quantile(calls, q, w.from, w.to) }
	noise := max(lag.worst(w), lag.worst(before))
	t.Logf("%s: p50 %v p99 %v, before p50 %v p99 %v; the machine stood still for up to %v",
		w.name, at(0.5, w), at(0.99, w), at(0.5, before), at(0.99, before), noise)
	if long && noise < 20*time.Millisecond && at(0.99, w) > at(0.99, before)+w.added+4*noise {
		t.Errorf("%s 1 %% of the requests took %v, %v before", w.name, at(0.99, w), at(0.99, before))
	}
}

// clusterLag watches how late this process wakes up: so late may a request be for
// want of a processor.
type clusterLag struct {
	begin time.Time
	end   chan struct{}
	work  sync.WaitGroup
	late  []clusterCall // from when it should have woken up until when it did
}

func startLag(t *testing.T) *clusterLag {
	l := &clusterLag{begin: time.Now(), end: make(chan struct{})}
	l.work.Go(func() {
		tick := time.NewTimer(0)
		defer tick.Stop()
		for {
			due := time.Since(l.begin) + time.Millisecond
			tick.Reset(time.Millisecond)
			select {
			case <-l.end:
				return
			case <-tick.C:
				l.late = append(l.late, clusterCall{began: due, ended: time.Since(l.begin)})
			}
		}
	})
	t.Cleanup(func() { l.stop() })
	return l
}

func (l *clusterLag) stop() {
	select {
	case <-l.end:
	default:
		close(l.end)
	}
	l.work.Wait()
}

// worst is the most in a stretch of time.
func (l *clusterLag) worst(w clusterStretch) time.Duration { return quantile(l.late, 1, w.from, w.to) }
