//go:build !race

package cluster

import "testing"

// The race detector allocates on its own; this runs without it.
func TestAllocationsOfCounting(t *testing.T) {
	reply, ok := message(bytesOf(7, 0, 0, 0, 1, 2, 3, 4, 5, startText, 6, 8, 9))
	if !ok {
		t.Fatal("no reply")
	}
	w := settlement{tag: full.tag, keep: "gateway-1.7:1:1:" + startText, tokens: full.limits.Tokens, charge: 64, quota: full.quota}
	for _, c := range []struct {
		name string
		most float64 // one string, and one list of its parts
		f    func()
	}{
		{"ask.call", 2, func() { full.call("llmproxy:") }},
		{"settlement.call", 2, func() { w.call("llmproxy:") }},
		{"member", 1, func() { member("gateway-1.7", 1234, 1234, 1) }},
		{"answer.read", 0, func() {
			var r answer
			if r.read(reply) != nil {
				t.Fail()
			}
		}},
	} {
		if n := testing.AllocsPerRun(100, c.f); n > c.most {
			t.Errorf("%s: %v allocations, want %v", c.name, n, c.most)
		}
	}
}
