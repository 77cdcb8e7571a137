package route

import (
	"fmt"
	"runtime"
	"sync"
	"testing"
)

func TestAffinity(t *testing.T) {
	one, two := &State{}, &State{}
	a := NewAffinity(100)
	if home, ok := a.Get("resp_1"); ok {
		t.Errorf("an id nobody put lives at %v", home)
	}
	a.Put("resp_1", Home{State: one, Model: "m"})
	a.Put("resp_2", Home{State: two, Model: "n"})
	if home, ok := a.Get("resp_1"); !ok || home != (Home{State: one, Model: "m"}) {
		t.Errorf("resp_1: %v, %t", home, ok)
	}
	a.Put("resp_1", Home{State: two, Model: "m"})
	if home, _ := a.Get("resp_1"); home.State != two {
		t.Error("put again elsewhere, it is found at the old place")
	}
	a.Delete("resp_1")
	a.Delete("resp_1")
	if _, ok := a.Get("resp_1"); ok {
		t.Error("a deleted response has a home")
	}
	if _, ok := a.Get("resp_2"); !ok {
		t.Error("another went with the one that was deleted")
	}
}

func TestAffinityIsBounded(t *testing.T) {
	for _, size := range []int{-1, 0, 1, 2, 31, 33, 100, 1000} {
		a := NewAffinity(size)
		for i := range 20 * max(size, 1) {
			a.Put(fmt.Sprint(i), Home{Model: "m"})
		}
		n := 0
		for i := range a.shards {
			n += len(a.shards[i].homes)
		}
		if n != max(size, 0) {
			t.Errorf("an affinity for %d holds %d", size, n)
		}
	}
}

// One shard, so that the order is exact.
func TestAffinityForgetsTheOldest(t *testing.T) {
	known := func(a *Affinity) (ids string) {
		for id := 'a'; id <= 'z'; id++ {
			if _, ok := a.Get(string(id)); ok {
				ids += string(id)
			}
		}
		return ids
	}
	for _, c := range []struct{ what, put, want string }{
		{"room left", "ab", "ab"},
		{"full", "abc", "abc"},
		{"the first goes first", "abcde", "cde"},
		{"round the ring twice", "abcdefgh", "fgh"},
		{"put again is not a new entry", "aabbccd", "bcd"},
		{"deleted and put again, it is young", "abcAad", "cad"},
		{"a slot left over does not take the young entry along", "abAac", "abc"},
		{"the ring does not shrink by a delete", "abcBdef", "def"},
	} {
		a := &Affinity{shards: []shard{{homes: map[string]place{}, size: 3}}, seed: NewAffinity(1).seed}
		for _, op := range c.put {
			if op < 'a' {
				a.Delete(string(op + 'a' - 'A'))
			} else {
				a.Put(string(op), Home{})
			}
		}
		got, want := map[rune]bool{}, map[rune]bool{}
		for _, id := range known(a) {
			got[id] = true
		}
		for _, id := range c.want {
			want[id] = true
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %s leaves %s, want %s", c.what, c.put, known(a), c.want)
		}
	}
}

func TestAffinityUnderConcurrency(t *testing.T) {
	a := NewAffinity(64)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			state := &State{}
			for i := range 500 {
				mine := fmt.Sprintf("resp_%d_%d", w, i)
				a.Put(mine, Home{State: state, Model: "m"})
				if home, ok := a.Get(mine); ok && home.State != state {
					t.Errorf("%s is found at another's home", mine)
				}
				a.Delete(fmt.Sprintf("resp_%d_%d", (w+1)%8, i))
			}
		})
	}
	wg.Wait()
}

// What the docstring promises.
func TestAffinityMemory(t *testing.T) {
	const size = 20_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	a := NewAffinity(size)
	for i := range 2 * size {
		a.Put(fmt.Sprintf("resp_%032x", i), Home{Model: "m"})
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := float64(after.HeapAlloc-before.HeapAlloc) / size
	t.Logf("%.0f bytes an entry", each)
	if each > 250 {
		t.Errorf("an entry with an id of 37 bytes takes %.0f bytes", each)
	}
	runtime.KeepAlive(a)
}
