package quota_test

import (
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/quota"
)

const workers = 4

// together runs f in all workers at once.
func together(f func(worker int)) {
	var work sync.WaitGroup
	begin := make(chan struct{})
	for w := range workers {
		work.Go(func() {
			<-begin
			f(w)
		})
	}
	close(begin)
	work.Wait()
}

// TestTheLimitIsGivenOutOnce has all of it taken in the smallest parts.
func TestTheLimitIsGivenOutOnce(t *testing.T) {
	const limit = 1_000_000
	term := today()
	var taken atomic.Int64
	together(func(int) {
		n := int64(0)
		for term.Reserve(1, limit) {
			n++
		}
		taken.Add(n)
	})
	if taken.Load() != limit {
		t.Errorf("%d were taken of %d", taken.Load(), limit)
	}
	checkUse(t, term, 0, limit)
}

// TestOneTermForAll has the account asked by all in the moment in which a day has
// begun, on every other day with a reset among them: if two of them made a term,
// some use would be missing in either.
func TestOneTermForAll(t *testing.T) {
	const days = 10_000
	var a quota.Account
	var arrived atomic.Int64
	var got [workers][days]*quota.Term
	var reset [days]*quota.Term
	together(func(worker int) {
		for n := range days {
			now := noon.Add(time.Duration(n) * aDay)
			for arrived.Add(1); arrived.Load() < int64(workers*(n+1)); {
				runtime.Gosched()
			}
			if worker == 0 && n%2 == 1 {
				reset[n] = a.Reset(now)
			}
			got[worker][n] = a.Term(now, quota.Daily, time.UTC)
			got[worker][n].Settle(0, 1)
		}
	})
	for n := range days {
		used := map[int64]int64{}
		for _, terms := range got {
			used[terms[n].Start] = terms[n].Used()
		}
		sum := int64(0)
		for _, u := range used {
			sum += u
		}
		if sum != workers || reset[n] == nil && len(used) != 1 || reset[n] != nil && got[0][n].Start != reset[n].Start {
			t.Fatalf("day %d: used %v, reset to %+v", n, used, reset[n])
		}
	}
}

// TestReservedIsNeverNegative has requests that use more than they reserved.
func TestReservedIsNeverNegative(t *testing.T) {
	term := today()
	var work sync.WaitGroup
	var done atomic.Bool
	for range 2 {
		work.Go(func() {
			for range 200_000 {
				if term.Reserve(1, 0) {
					term.Settle(1, 1000)
				}
			}
			done.Store(true)
		})
	}
	for !done.Load() {
		if n := term.Reserved(); n < 0 {
			t.Errorf("%d are reserved", n)
			break
		}
	}
	work.Wait()
	checkUse(t, term, 400_000_000, 0)
}

// TestConcurrently has requests, resets and the ends of days at once. Nobody uses
// more than was reserved, so that no term may ever show more than the limit.
func TestConcurrently(t *testing.T) {
	var s site
	s.clock.Store(noon.UnixNano())
	var used [workers]map[int64]int64 // by the term's start
	together(func(worker int) { used[worker] = s.work(t, rand.New(rand.NewPCG(6, uint64(worker)))) })
	met := 0
	s.terms.Range(func(start, term any) bool {
		want := int64(0)
		for _, u := range used {
			want += u[start.(int64)]
		}
		checkUse(t, term.(*quota.Term), want, 0)
		met++
		return true
	})
	t.Logf("%d terms, %d refused", met, s.refused.Load())
	if met < 50 || s.refused.Load() < 100 {
		t.Error("this has tested nothing")
	}
}

type site struct {
	account quota.Account
	clock   atomic.Int64
	terms   sync.Map // start to the first *quota.Term met
	refused atomic.Int64
}

const siteLimit = 1000

// work begins and ends requests, and returns what they have used in each term.
func (s *site) work(t *testing.T, rnd *rand.Rand) map[int64]int64 {
	sums := map[int64]int64{}
	var open []underway
	settle := func() {
		u := open[0]
		open = open[1:]
		used := rnd.Int64N(u.held + 1)
		u.term.Settle(u.held, used)
		sums[u.term.Start] += used
	}
	for range 40_000 {
		now := time.Unix(0, s.clock.Add(rnd.Int64N(int64(2*time.Minute))-int64(30*time.Second)))
		term := s.account.Term(now, quota.Daily, time.UTC)
		s.terms.LoadOrStore(term.Start, term)
		if n := 1 + rnd.Int64N(20); term.Reserve(n, siteLimit) {
			open = append(open, underway{term, n})
		} else {
			s.refused.Add(1)
		}
		used := term.Used()
		if reserved := term.Reserved(); reserved < 0 || used+reserved > siteLimit {
			t.Errorf("used %d, reserved %d", used, reserved)
		}
		if len(open) > 3 {
			settle()
		}
		if rnd.IntN(1000) == 0 {
			s.account.Reset(now)
		}
	}
	for len(open) > 0 {
		settle()
	}
	return sums
}
