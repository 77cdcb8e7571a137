package events

import "testing"

// TestHoldThatLags: the journal gets full, requests are refused, and ends wait;
// when somebody holds at last all goes on, and nothing is lost.
func TestHoldThatLags(t *testing.T) {
	for name, nobody := range map[string]bool{"delivered": false, "nobody delivers": true} {
		t.Run(name, func(t *testing.T) {
			l := openTest(t, t.TempDir(), small())
			tail := l.Tail()
			if nobody {
				l.NoDelivery()
			} else {
				deliver(t, l, newReceiver(t, ok).URL)
			}
			ended := 0
			for ; l.Start(request(ended)); ended++ {
				l.End(request(ended))
			}
			if !l.Failing() {
				t.Fatal("the journal has room, and a start is refused")
			}
			for range ringSize / 2 { // ends that wait in memory
				l.End(request(ended))
				ended++
			}
			waitFor(t, "all that was begun to be held", func() bool {
				_, last := each(t, tail)
				l.Hold(last)
				return last == uint64(ended)
			})
			waitFor(t, "the journal to have room", func() bool { return l.Start(request(ended)) })
		})
	}
}

// TestLongRequestsInASmallJournal: the journal keeps all from the beginning of
// the first of them on. When it had no room for their ends they were never over,
// and no request began any more.
func TestLongRequestsInASmallJournal(t *testing.T) {
	const long = 2000 // their ends need more room than what is kept besides
	dir := t.TempDir()
	l := openTest(t, dir, small())
	l.NoDelivery()
	tail := l.Tail()
	for n := range long {
		l.Start(request(n))
	}
	n := long
	for ; l.Start(request(n)); n++ {
		l.End(request(n))
		l.Mark(request(0))
	}
	if !l.Failing() {
		t.Error("no request may begin, and nobody is told")
	}
	for n := range long { // the first of them last
		if n == long/2 {
			dir = killed(t, dir)
		}
		l.End(request(long - 1 - n))
	}
	if l.failing.Load() {
		t.Error("there is no room for ends")
	}
	goesOn := func(l *Log, tail *Tail) {
		waitFor(t, "requests to begin again", func() bool {
			written(t, l)
			_, last := each(t, tail)
			l.Hold(last)
			return last == uint64(n) && l.Start(request(n+1))
		})
	}
	goesOn(l, tail)
	again := openTest(t, dir, small()) // writes ends, too
	again.NoDelivery()
	goesOn(again, again.Tail())
}

// TestRequestsToNoEngineDoNotFillWhatIsHeld: nothing ever comes to be held.
func TestRequestsToNoEngineDoNotFillWhatIsHeld(t *testing.T) {
	l := openTest(t, t.TempDir(), small())
	l.NoDelivery()
	tail := l.Tail()
	for n := range ringSize {
		if !l.Start(request(n)) {
			each(t, tail)
			waitFor(t, "the journal to have room", func() bool { return !l.Failing() })
			continue
		}
		l.Void(request(n))
	}
	l.flush(l.tail.Load())
	each(t, tail)
	if s := l.Stats(); s.BacklogBytes > 2*releaseEvery*slotSize {
		t.Errorf("%+v", s)
	}
}
