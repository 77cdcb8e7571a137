//go:build !race

package journal

import (
	"bytes"
	"testing"
)

func TestAllocations(t *testing.T) {
	for _, sync := range []Sync{SyncInterval, SyncAlways, SyncOS} {
		j := openTest(t, t.TempDir(), Options{Sync: sync})
		record := bytes.Repeat([]byte("x"), 600)
		var b Batch
		r := j.Reader(0)
		write := func() {
			b.Reset()
			for range 16 {
				if err := b.Add(record); err != nil {
					t.Error(err)
				}
			}
			if err := j.Write(&b); err != nil {
				t.Error(err)
			}
		}
		for range 200 {
			write() // until the buffers have grown
		}
		if n := testing.AllocsPerRun(100, write); n != 0 {
			t.Errorf("sync %d: a warm batch and its Write allocate %v times", sync, n)
		}
		if n := testing.AllocsPerRun(100, func() {
			if _, ok, err := r.step(); !ok && j.o.Sync != SyncInterval || err != nil {
				t.Error("nothing to read", err)
			}
		}); n != 0 {
			t.Errorf("sync %d: reading a record allocates %v times", sync, n)
		}
	}
}
