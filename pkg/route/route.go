// Package route decides which backend gets a request.
//
// A Table is immutable and built from configuration: it resolves the model a
// client names to the name sent upstream and to a Pool, the backends that can
// serve it. A Pool picks one backend per attempt. What changes while the
// gateway runs (requests in flight, latency, health, ejection) lives in the
// State of each backend: a few atomics that outlive a reload. An Affinity
// remembers what only one backend can answer, and is asked before any Pool.
//
// Resolve, Serving, Pick and Next allocate nothing and never wait for a lock,
// but for rare moments. The first model to match a combination of several globs
// has its pool made, and so has the first request for a surface that only some
// of a pool serve. And when a backend goes out or comes back, the next pick of
// each pool renews that pool's view of who is in use; picks that run meanwhile
// go by the view before.
package route

import (
	"fmt"
	"slices"
)

// Strategy is how a pool chooses among its backends in use. Under each of them a
// backend in slow start (see TableConfig.SlowStart) gets at most the share that
// its weight of the moment entitles it to.
type Strategy int

const (
	// RoundRobin hands out turns by weight, evenly spread: over a full cycle
	// each backend gets exactly its share.
	RoundRobin Strategy = iota
	// LeastConnections takes the fewest requests in flight per weight, in slow
	// start the weight of the moment; ties go by RoundRobin.
	LeastConnections
	// Latency takes the least peak-EWMA time to the first event of a stream,
	// times requests in flight + 1, per weight; ties go by RoundRobin.
	Latency
)

// strategyNames are the words an operator writes, by Strategy.
var strategyNames = [...]string{"round_robin", "least_connections", "latency_based"}

// ParseStrategy reads round_robin, least_connections or latency_based.
func ParseStrategy(name string) (Strategy, error) {
	for i, known := range strategyNames {
		if name == known {
			return Strategy(i), nil
		}
	}
	return 0, fmt.Errorf("cannot use load balance strategy %q: it is none of %q", name, strategyNames)
}

// String returns the word ParseStrategy reads.
func (s Strategy) String() string {
	if s < 0 || int(s) >= len(strategyNames) {
		return fmt.Sprintf("Strategy(%d)", int(s))
	}
	return strategyNames[s]
}

// PickErr says why Pick or Next returned no backend; Picked when it did.
type PickErr int

const (
	// Picked: a backend was returned, and entered.
	Picked PickErr = iota
	// Full: every backend that could take the request is at its MaxInFlight.
	Full
	// None: no backend is left that this request has not tried, or all drain.
	None
)

// String names the outcome, for logs and metric labels.
func (e PickErr) String() string {
	return [...]string{"picked", "full", "none"}[e]
}

// Tried is the set of backends one request has used already. The zero value is
// empty; it belongs to one request of one Table and is not safe for concurrent
// use. Pick and Next add what they return. Up to eight backends cost no
// allocation.
type Tried struct {
	first [8]int32
	more  []int32
	n     int
	last  int // Index of what was added last, perhaps not for the first time
}

// Len is the number of backends tried.
func (t *Tried) Len() int {
	if t == nil {
		return 0
	}
	return t.n
}

// Has reports whether b was tried.
func (t *Tried) Has(b *Backend) bool {
	if t == nil {
		return false
	}
	index := int32(b.Index)
	if slices.Contains(t.first[:min(t.n, len(t.first))], index) {
		return true
	}
	return slices.Contains(t.more, index)
}

// Add puts b into the set.
func (t *Tried) Add(b *Backend) {
	if t == nil {
		return
	}
	t.last = b.Index
	if t.Has(b) {
		return
	}
	if t.n < len(t.first) {
		t.first[t.n] = int32(b.Index)
	} else {
		t.more = append(t.more, int32(b.Index))
	}
	t.n++
}

// Reset empties the set and keeps its memory.
func (t *Tried) Reset() {
	t.n, t.more = 0, t.more[:0]
}
