package cluster

import (
	"sync/atomic"
	"time"
)

// breaker tells from how commands went whether it is worth asking Redis. It opens after
// five failures in a row, or when half of at least twenty commands within a second have
// failed, and stays open until close is called: what comes after it opened changes
// nothing. The zero breaker is closed. Its methods are safe for concurrent use, and
// never wait.
type breaker struct {
	opened atomic.Bool
	row    atomic.Int32  // failures since the last success
	recent atomic.Uint64 // a tally
}

const (
	mostInRow = 5
	enough    = 20                     // commands, to tell from a share of them
	half      = 500 * time.Millisecond // of the second that is looked at
)

// open tells that nobody is to ask.
func (b *breaker) open() bool { return b.opened.Load() }

// ok counts a command that was answered.
func (b *breaker) ok(now time.Time) {
	if b.open() {
		return
	}
	if b.row.Load() != 0 { // mostly it is: so that all do not write the same word
		b.row.Store(0)
	}
	b.count(now, 0)
}

// failed counts a command that was not. opened is true for the one that opens it.
func (b *breaker) failed(now time.Time) (opened bool) {
	if b.open() {
		return false
	}
	row := b.row.Add(1)
	t := b.count(now, 1)
	if row < mostInRow && !t.bad() {
		return false
	}
	return b.opened.CompareAndSwap(false, true)
}

// close forgets what was, and lets everybody ask again.
func (b *breaker) close() {
	b.row.Store(0)
	b.recent.Store(0)
	b.opened.Store(false)
}

// count adds a command to those of the last second.
func (b *breaker) count(now time.Time, failures uint64) tally {
	n := uint64(now.UnixMilli()/half.Milliseconds()) % (1 << 24)
	for {
		word := b.recent.Load()
		t := tally(word).at(n).add(failures)
		if b.recent.CompareAndSwap(word, uint64(t)) {
			return t
		}
	}
}

// tally is which half second it is, and of that and of the one before how many
// commands there were and how many failed. From the top: 24 bits; 10 bits of each of
// the four, those before first.
type tally uint64

const mostCounted = 1<<10 - 1

func (t tally) half() uint64 { return uint64(t >> 40) }

func (t tally) before() (all, failures uint64) {
	return uint64(t>>30) & mostCounted, uint64(t>>20) & mostCounted
}

func (t tally) since() (all, failures uint64) {
	return uint64(t>>10) & mostCounted, uint64(t) & mostCounted
}

func newTally(half, allBefore, failuresBefore, all, failures uint64) tally {
	return tally(half<<40 | allBefore<<30 | failuresBefore<<20 | all<<10 | failures)
}

// at is t in the n-th half second. A caller that was held up in between counts in the
// one that the others are in.
func (t tally) at(n uint64) tally {
	all, failures := t.since()
	switch n - t.half() {
	case 0, 1<<64 - 1:
		return t
	case 1:
		return newTally(n, all, failures, 0, 0)
	default:
		return newTally(n, 0, 0, 0, 0)
	}
}

// add counts one more. Where there is no room for it, all are halved: it is their share
// that matters.
func (t tally) add(failures uint64) tally {
	allBefore, failuresBefore := t.before()
	all, failed := t.since()
	if all == mostCounted {
		all, failed = all/2, failed/2
	}
	return newTally(t.half(), allBefore, failuresBefore, all+1, failed+failures)
}

// bad tells that half of them have failed, if there are enough to tell.
func (t tally) bad() bool {
	allBefore, failuresBefore := t.before()
	all, failures := t.since()
	all, failures = all+allBefore, failures+failuresBefore
	return all >= enough && 2*failures >= all
}
