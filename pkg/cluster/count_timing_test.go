package cluster

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redis"
)

// scriptTime tells how long Redis was busy with one script.
func (s *stage) scriptTime() float64 {
	s.t.Helper()
	_, of, _ := strings.Cut(s.server.Must("INFO", "commandstats"), "cmdstat_evalsha:")
	_, text, _ := strings.Cut(of, "usec_per_call=")
	text, _, _ = strings.Cut(text, ",")
	us, err := strconv.ParseFloat(text, 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return us
}

func (s *stage) mustRun(call redis.Call) answer {
	s.t.Helper()
	m, err := s.client.Run(call, promptly)
	var got answer
	if err == nil {
		err = got.read(m)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

// BenchmarkCountOnRedis is a request's ask and its end, with all limits, beside 50
// others that run; µs at Redis are of one script.
func BenchmarkCountOnRedis(b *testing.B) {
	limits := *full.limits
	limits.PerSecond.Burst, limits.PerMinute.Burst, limits.Tokens.Burst, limits.Concurrent = 1e9, 1e9, 1e12, 1e6
	for _, c := range []struct {
		name         string
		admit, other bool
	}{{"admit", true, false}, {"admit and settle", true, true}, {"refuse", false, false}} {
		b.Run(c.name, func(b *testing.B) {
			s := newStage(b)
			a := full
			l := limits
			a.limits, a.notAfter, a.quota.limit, a.quota.end = &l, 0, 1e15, never
			for i := range 50 {
				a.lease = "other." + strconv.Itoa(i)
				s.mustRun(a.call("p:"))
			}
			if !c.admit {
				l.Concurrent = 50
			}
			s.server.Must("CONFIG", "RESETSTAT")
			for n := 0; b.Loop(); n++ {
				a.lease = "gateway-1." + strconv.Itoa(n)
				got := s.mustRun(a.call("p:"))
				if (got.by == 0) != c.admit {
					b.Fatal(got)
				}
				if c.admit {
					w := settlement{tag: a.tag, lease: member(a.lease, a.held(), a.heldOfQuota(), got.start), ttl: 30 * time.Second}
					if c.other {
						a.quota.used += 100
						w.tokens, w.charge, w.quota = l.Tokens, 100, a.quota
					}
					if _, err := s.client.Run(w.call("p:"), promptly); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(s.scriptTime(), "µs-at-Redis/script")
		})
	}
}

func BenchmarkAskCall(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		full.call("llmproxy:")
	}
}

func BenchmarkAnswerRead(b *testing.B) {
	reply, _ := message(bytesOf(7, 0, 0, 0, 1, 2, 3, 4, 5, startText, 6, 8, 9))
	b.ReportAllocs()
	for b.Loop() {
		var r answer
		if r.read(reply) != nil {
			b.Fatal()
		}
	}
}
