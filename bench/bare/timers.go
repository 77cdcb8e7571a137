//go:build linux

package main

import (
	"container/heap"
	"time"
)

// timer is one connection's next appointment. Times count from the loop's start.
type timer struct {
	due time.Duration
	pos int // in the heap, from 1; 0 is not in it
	id  int // whose it is
}

// timers is a heap of the timers that are set, the earliest first.
type timers []*timer

func (h timers) Len() int           { return len(h) }
func (h timers) Less(i, j int) bool { return h[i].due < h[j].due }
func (h timers) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i+1, j+1
}

func (h *timers) Push(x any) {
	t := x.(*timer)
	*h = append(*h, t)
	t.pos = len(*h)
}

func (h *timers) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	*h = (*h)[:last]
	t.pos = 0
	return t
}

func (h *timers) set(t *timer, due time.Duration) {
	t.due = due
	if t.pos > 0 {
		heap.Fix(h, t.pos-1)
		return
	}
	heap.Push(h, t)
}

func (h *timers) cancel(t *timer) {
	if t.pos > 0 {
		heap.Remove(h, t.pos-1)
	}
}

// expired takes out the earliest timer that was due at now, or returns nil.
func (h *timers) expired(now time.Duration) *timer {
	if len(*h) == 0 || (*h)[0].due > now {
		return nil
	}
	return heap.Pop(h).(*timer)
}

// next is how long after now the earliest timer is due, at most limit; a
// negative limit is none.
func (h timers) next(now, limit time.Duration) time.Duration {
	if len(h) == 0 {
		return limit
	}
	d := max(h[0].due-now, 0)
	if limit >= 0 {
		d = min(d, limit)
	}
	return d
}
