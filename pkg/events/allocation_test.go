//go:build !race

package events

import (
	"testing"

	"github.com/llmproxy/llmproxy/pkg/journal"
)

func TestAllocations(t *testing.T) {
	l := openTest(t, t.TempDir(), journal.Options{})
	r := request(1)
	journey := func() {
		l.Start(r)
		l.Mark(r)
		l.End(r)
	}
	for range ringSize { // until each place has had a record
		journey()
	}
	if n := testing.AllocsPerRun(1000, journey); n != 0 {
		t.Errorf("a start, a mark and an end allocate %v times", n)
	}
	var b []byte
	if n := testing.AllocsPerRun(1000, func() { b = r.appendEvent(b[:0], "gw-1", 1) }); n > 2 { // the id and the source
		t.Errorf("an event allocates %v times", n)
	}
}
