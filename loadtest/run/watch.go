package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/llmproxy/llmproxy/loadtest/result"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// watcher notes, once a second, what the engines do and what each of them has
// in flight.
type watcher struct {
	stage   *stage
	gateway *gateway
	side    *result.Side
	last    []mockvllm.State // of each engine
}

func newWatcher(st *stage, g *gateway, side *result.Side) *watcher {
	side.InFlight, side.Busy, side.Batch = map[string]result.Series{}, map[string]result.Series{}, map[string]result.Series{}
	return &watcher{stage: st, gateway: g, side: side, last: make([]mockvllm.State, len(st.engines))}
}

// run watches for so many seconds and reports every fifth. A second whose
// figures could not be had is a zero of what was done in it, which the next one
// makes up for, and -1 of what was in flight.
func (w *watcher) run(ctx context.Context, begin time.Time, seconds int, t *traffic, progress io.Writer) {
	for second := 1; second <= seconds; second++ {
		pause(ctx, time.Until(begin.Add(time.Duration(second)*time.Second)))
		if ctx.Err() != nil {
			return
		}
		flying := w.second(ctx)
		if second%5 == 0 || second == seconds {
			report(progress, w.gateway.name, second, t, flying)
		}
	}
}

// second takes one sample.
func (w *watcher) second(ctx context.Context) string {
	now := make([]mockvllm.State, len(w.last))
	heard := make([]bool, len(w.last))
	var all sync.WaitGroup
	for i, e := range w.stage.engines {
		all.Go(func() {
			var err error
			now[i], err = e.state(ctx)
			heard[i] = err == nil
		})
	}
	flying, err := w.gateway.inFlight(ctx)
	all.Wait()

	var queued float64
	admitted := 0
	var line strings.Builder
	for i, e := range w.stage.engines {
		before := &w.last[i]
		if heard[i] && now[i].BusySeconds < before.BusySeconds {
			*before = mockvllm.State{} // a new process
		}
		if !heard[i] {
			now[i] = *before
		}
		n := -1
		if err == nil {
			n = flying[e.host]
			fmt.Fprintf(&line, " %s %d", e.host, n)
		}
		w.side.InFlight[e.host] = append(w.side.InFlight[e.host], n)
		w.side.Busy[e.host] = append(w.side.Busy[e.host], millis(now[i].BusySeconds-before.BusySeconds))
		w.side.Batch[e.host] = append(w.side.Batch[e.host], millis(now[i].BatchSeconds-before.BatchSeconds))
		queued += now[i].QueueSeconds - before.QueueSeconds
		admitted += now[i].Admitted - before.Admitted
		*before = now[i]
	}
	w.side.Queued = append(w.side.Queued, millis(queued))
	w.side.Admitted = append(w.side.Admitted, admitted)
	return line.String()
}

func millis(seconds float64) int { return int(seconds*1000 + 0.5) }

func report(out io.Writer, name string, second int, t *traffic, flying string) {
	asked, ended, first := t.counts()
	fmt.Fprintf(out, "%-8s %3d s: %d asked, %d answered, %d over a limit, %d failed, %d cut; first token p50 %d ms p99 %d ms; in flight:%s\n",
		name, second, asked, ended[result.Answered], ended[result.Limited], ended[result.Refused]+ended[result.GaveUp], ended[result.Cut],
		result.Quantile(first, 0.5), result.Quantile(first, 0.99), flying)
}
