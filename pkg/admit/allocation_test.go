//go:build !race

package admit_test

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
)

// The race detector allocates on its own; these run without it.
func TestAllocationsOfADecision(t *testing.T) {
	d := newDesk(t, 1000)
	full, forAll := newDesk(t, 1), newDesk(t, 1)
	forAll.global = limit.PerMinute(1)
	var held, ticket admit.Ticket
	r := asking(9, 0, &limit.Limits{Tokens: limit.PerMinute(1), Concurrent: 1, PerMinute: limit.PerMinute(1)}, 5)
	enter(t, full.gate, r)
	if _, ok := forAll.decide(&held, forAll.secrets[0], "qwen-72b"); !ok {
		t.Fatal("refused")
	}
	model := d.gate.Model("qwen-72b")
	for name, step := range map[string]func() bool{
		"let in":             func() bool { return d.serve(d.secrets[7]) },
		"another key":        func() bool { return d.serve(d.secrets[int(d.now)%1000]) },
		"a model of others":  func() bool { _, ok := d.decide(&ticket, d.secrets[7], "gpt-7"); return !ok },
		"refused by its own": func() bool { _, ok := full.gate.Enter(&ticket, r); return !ok },
		"refused by the global": func() bool {
			by, ok := forAll.decide(&ticket, forAll.secrets[0], "qwen-72b")
			return !ok && by == admit.Global
		},
		"what a header tells": func() bool { _, _, ok, _ := d.gate.Standings(r.Who, r.Limits, birth); return ok },
		"a prompt": func() bool {
			model.Learn(1000, 300)
			return d.gate.Model("qwen-72b").Prompt(1000) > 0
		},
	} {
		if n := testing.AllocsPerRun(1000, func() {
			if !step() {
				t.Fatalf("%s: it was not", name)
			}
		}); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

// What a full table of strangers takes is bounded by what the documentation says.
func TestAllocatedBytesOfAStranger(t *testing.T) {
	const most = 250
	g := newGate()
	before := heap()
	if in := come(g, 0, admit.DefaultSize, 0, false); in != admit.DefaultSize {
		t.Fatal(in)
	}
	each := float64(heap()-before) / admit.DefaultSize
	if each > most {
		t.Errorf("%.0f bytes each, want at most %d", each, most)
	}
	t.Logf("%.0f bytes each, %s", each, fmt.Sprint(g.Len()))
}

// heap is what lives, in bytes.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
