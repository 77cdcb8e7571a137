package app_test

import (
	"sync"
	"testing"
	"time"
)

// stretch is a part of the time of a load.
type stretch struct{ from, to time.Duration }

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

func (l *clusterLag) stop() *clusterLag {
	select {
	case <-l.end:
	default:
		close(l.end)
	}
	l.work.Wait()
	return l
}

// worst is the most in a stretch of time.
func (l *clusterLag) worst(w stretch) time.Duration { return quantile(l.late, 1, w.from, w.to) }
