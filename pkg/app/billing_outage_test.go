package app_test

import (
	"net/http"
	"testing"
	"time"
)

// outage is a while in which the billing system does not do what it should.
type outage struct {
	name    string
	mood    mood
	refused bool // nobody listens
	killed  bool // and the gateway is killed meanwhile
}

// outages take something at first, and then nothing for as long as they last.
var outages = []outage{
	{name: "413", mood: takesFew(20)},
	{name: "reset in the answer", mood: resets("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nthan")},
	{name: "refused", refused: true, killed: true},
	{name: "429", mood: fails(http.StatusTooManyRequests, "1"), killed: true},
	{name: "no answer", mood: hangs},
	{name: "reset instead of an answer", mood: resets(""), killed: true},
	{name: "500", mood: fails(http.StatusInternalServerError, "")},
}

// billingDown: however long a billing system is away, and in whatever way, it
// gets everything in the end, and the gateway does not grow.
func billingDown(t *testing.T) {
	rate, each := 200, 300*time.Millisecond
	if long {
		rate, each = 300, 2*time.Minute // 10 of them without a delivery
	}
	const most = 50 << 20
	s := startBilledSite(t, siteOptions{rate: rate, hook: ", max_age: 50ms, timeout: 200ms, retry: 1000000"})
	base := s.weigh()
	for _, o := range outages {
		s.endure(t, o, int(each.Seconds()*float64(rate)))
	}
	backlog := s.metric("llmproxy_usage_backlog_events")
	s.be(takes)
	began := time.Now()
	s.caughtUp(t)
	t.Logf("%v events waited, delivered within %v", backlog, time.Since(began))
	s.weigh()
	s.settle(t)
	if s.repeated == 0 {
		t.Error("no event came twice: the resets did nothing")
	}
	t.Logf("memory %.1f MiB before, %.1f MiB at most", base/(1<<20), s.peak/(1<<20))
	if s.peak-base >= most {
		t.Errorf("memory grew by %.1f MiB", (s.peak-base)/(1<<20))
	}
}

// endure goes through an outage of so many requests.
func (s *billedSite) endure(t *testing.T, o outage, requests int) {
	t.Helper()
	attempts := s.asked
	if o.refused {
		s.billing.close()
		attempts = func() int {
			return int(s.metric(`llmproxy_usage_delivery_attempts_total{result="unreachable"}`))
		}
	} else {
		s.be(o.mood)
	}
	if o.killed {
		s.more(t, requests/2)
		s.crash(t)
		requests -= requests / 2
	}
	before := attempts()
	s.more(t, requests)
	growsTo(t, "attempts while "+o.name, before+2, attempts)
	s.weigh()
	if o.refused {
		s.be(fails(http.StatusInternalServerError, ""))
		if err := s.open(); err != nil {
			t.Fatal(err)
		}
	}
}

// hookDownCost compares what a request costs while the billing system is down
// with what it costs while it is up, in turns, for the machine is not the same at
// all times.
func hookDownCost(t *testing.T) {
	rate, turns, each := 200, 1, 600*time.Millisecond
	if long {
		rate, turns, each = 300, 6, 20*time.Second
	}
	s := startBilledSite(t, siteOptions{rate: rate, hook: ", timeout: 200ms, retry: 0"})
	var cost [2]float64 // seconds of CPU a request: up, down
	for turn := range turns {
		for state, m := range []mood{takes, fails(http.StatusInternalServerError, "")} {
			s.be(m)
			// A new sender does not wait for the end of a pause.
			s.revise(t, 2*turn+state+1)
			if state == 0 {
				s.caughtUp(t)
			}
			cost[state] += s.cost(t, int(each.Seconds()*float64(rate)))
		}
	}
	s.be(takes)
	s.revise(t, 0)
	t.Logf("%.0f us of CPU a request while the hook is up, %.3f times that while it is down", cost[0]/float64(turns)*1e6, cost[1]/cost[0])
	if ratio := cost[1] / cost[0]; long && ratio > 1.05 {
		t.Errorf("a request costs %.3f times as much while the hook is down", ratio)
	}
	s.settle(t)
}

// cost is what one of the next requests costs the gateway, in seconds of CPU.
func (s *billedSite) cost(t *testing.T, requests int) float64 {
	t.Helper()
	before := s.metric("process_cpu_seconds_total")
	done := s.done()
	s.more(t, requests)
	return (s.metric("process_cpu_seconds_total") - before) / float64(s.done()-done)
}

// caughtUp waits until next to nothing waits for delivery.
func (s *billedSite) caughtUp(t *testing.T) {
	t.Helper()
	growsTo(t, "less backlog", -s.rate, func() int { return -int(s.metric("llmproxy_usage_backlog_events")) })
}
