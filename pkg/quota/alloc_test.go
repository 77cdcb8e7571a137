//go:build !race

package quota_test

import (
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/quota"
)

// The race detector allocates on its own; these run without it.
func TestAllocations(t *testing.T) {
	book := quota.NewBook(keys(100))
	a := book.Account(alice)
	term := a.Term(noon, quota.Daily, time.UTC)
	for name, f := range map[string]func(){
		"Account": func() {
			if book.Account(alice) != a {
				t.Fail()
			}
		},
		"Look": func() {
			if _, ok := book.Look(bob); ok {
				t.Fail()
			}
		},
		"Term": func() {
			if a.Term(noon, quota.Daily, time.UTC) != term {
				t.Fail()
			}
		},
		"Reserve and Settle": func() {
			if !term.Reserve(10, 100) || term.Reserved() != 10 {
				t.Fail()
			}
			term.Settle(term.Held(10, 100), 0)
		},
		"Bounds": func() {
			if start, _ := quota.Monthly.Bounds(noon, time.UTC); start.Day() != 1 {
				t.Fail()
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			if n := testing.AllocsPerRun(100, f); n != 0 {
				t.Errorf("%v allocations, want none", n)
			}
		})
	}
}
