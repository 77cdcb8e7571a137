package app_test

import (
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// TestNoCrossTalk: clients that leave at any byte take nothing of another's
// answer with them, and nothing from it.
func TestNoCrossTalk(t *testing.T) {
	leavesNothing(t)
	n := 600
	if long {
		n = 22_000 // some do not run to the end, because their engine breaks off
	}
	c := startCrowd(t, mockvllm.Options{StepBase: 5 * time.Millisecond})
	visits := c.plan(n)
	c.agrees(c.run(visits))
	if c.Metric(`llmproxy_client_aborts_total{phase="waiting"}`) == 0 || c.Metric(`llmproxy_client_aborts_total{phase="streaming"}`) == 0 {
		t.Error("no client left in one of the phases")
	}
}

// TestNoCrossTalkInRetries: the same while every third attempt is refused.
func TestNoCrossTalkInRetries(t *testing.T) {
	leavesNothing(t)
	n := 300
	if long {
		n = 20_000
	}
	c := startCrowd(t, mockvllm.Options{StepBase: 5 * time.Millisecond})
	visits := c.plan(n)
	for i := range visits {
		visits[i].fault = `{"fault":"503","engines":["e` + string(rune('0'+i%3)) + `"]}`
		visits[i].breaks = true
	}
	complete := c.agrees(c.run(visits))
	retries, denied := c.Metric("llmproxy_retries_total"), c.Metric("llmproxy_retries_denied_total")
	t.Logf("%d of %d that stayed were answered, %v retries, %v denied", complete, n/2, retries, denied)
	if complete < n/4 || retries < float64(n)/20 {
		t.Error("that was no storm, or nobody survived it")
	}
}

// agrees compares what the clients got with what the engines did. It returns
// the number of complete answers of clients that stayed.
func (c *crowd) agrees(answers []answer) (complete int) {
	c.t.Helper()
	c.settled()
	byTag, ids := map[string]*answer{}, map[string]bool{}
	done := map[string]int{} // complete generations, by tag
	for i := range answers {
		a := &answers[i]
		byTag[a.tag] = a
		if a.id != "" && ids[a.id] {
			c.t.Errorf("the request id %s came twice", a.id)
		}
		ids[a.id] = true
	}
	states := map[string]int{}
	for _, e := range c.engines {
		for _, r := range posts(e) {
			a := byTag[r.Tag]
			states[r.State]++
			if id, _, _ := strings.Cut(r.XRequestID, "-"); a == nil || a.id != "" && a.id != id {
				c.t.Errorf("the request %s was sent as %+v", r.Tag, r)
				continue
			}
			switch {
			case !r.Ended():
				c.t.Errorf("never ended: %+v", r)
			case r.State == mockvllm.StateDone && r.Tokens == a.tokens:
				done[r.Tag]++
			case isAborted(&r) && a.bytes < 0 && !a.breaks:
				c.t.Errorf("given up though its client stayed: %+v", r)
			}
		}
	}
	left := 0
	for i := range answers {
		a := &answers[i]
		ok := c.check(a)
		if ok && done[a.tag] != 1 {
			c.t.Errorf("%s has its answer, and %d were made", a.tag, done[a.tag])
		}
		if ok && a.bytes < 0 {
			complete++
		}
		if !ok && a.bytes >= 0 {
			left++
		}
	}
	c.t.Logf("%d complete, %d left; requests at the engines: %v", complete, left, states)
	return complete
}

// TestLeavesNothing: after a crowd has come and gone everything is as it was.
func TestLeavesNothing(t *testing.T) {
	leavesNothing(t)
	n := 200
	if long {
		n = 4000
	}
	c := startCrowd(t, mockvllm.Options{LedgerSize: 16, StepBase: 5 * time.Millisecond})
	var busy int
	var heap uint64
	for round := range 6 {
		for _, a := range c.run(c.plan(n)) {
			c.check(&a)
		}
		c.settled()
		if round == 0 {
			busy = workers()
		}
		apptest.Eventually(t, "the goroutines of the first round", func() bool { return workers() <= busy })
		debug.FreeOSMemory() // empties the pools, too
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		t.Logf("round %d: %d goroutines, %d KiB of heap", round, workers(), m.HeapAlloc>>10)
		if round == 0 {
			heap = m.HeapAlloc
		}
		if m.HeapAlloc > 2*heap+4<<20 {
			t.Errorf("round %d: %d KiB of heap, %d after the first", round, m.HeapAlloc>>10, heap>>10)
		}
	}
}

// workers counts the goroutines that are not the server's own spare ones,
// which wait some seconds for another connection.
func workers() int {
	n, stacks := goroutines()
	for g := range strings.SplitSeq(stacks, "\n\n") {
		if _, frames, _ := strings.Cut(g, "\n"); strings.HasPrefix(frames, "github.com/valyala/fasthttp.(*workerPool).workerFunc(") {
			n--
		}
	}
	return n
}
