//go:build !race

package cluster

import (
	"testing"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// The race detector allocates on its own; this runs without it.
func TestAllocationsOfARequest(t *testing.T) {
	p := newPeer(t, "0123456789abcdef", at(redistest.Start(t).Addr()), patiently).byHand()
	if n := testing.AllocsPerRun(1000, func() { p.count(p.shards[0], nil) }); n > 0 {
		t.Errorf("to count an answer allocates %v times", n)
	}
	q := admit.Ask{Tag: endless.tag(), Limits: &endless.limits, Tokens: 100, Quota: 1e15, Hold: 100}
	q.Account, q.Term = p.account(endless)
	p.shards[0].told.Store(false) // nobody is asked
	n := testing.AllocsPerRun(1000, func() {
		var w admit.Answer
		if p.Admit(&q, &w) {
			t.Fatal("somebody was asked")
		}
		w.Lease.End(0)
	})
	if n > 4 { // the lease, its name, its place in the map, and the Answer
		t.Errorf("a request that asks nobody allocates %v times", n)
	}
}
