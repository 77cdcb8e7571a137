package cluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/limit"
)

// schedule is a random history of one tag: three nodes with limits that may be of
// two configurations, a clock that jumps, keys that are lost, failovers to a
// replica that had less.
type schedule struct {
	*stage
	rnd    *rand.Rand
	tag    string
	plain  *plain
	limits [2]limit.Limits
	quota  int64
	nodes  [3]node
	number int
	stale  *plain
	dumps  [3]string
}

// node is one gateway: what it has used in its term, and the leases it has.
type node struct {
	name       string
	start, end int64
	used       int64
	leases     []held
	members    []string
}

// TestAgainstPlainArithmetic compares every answer, in thousands of calls; in a
// million with LLMPROXY_LONG=1.
func TestAgainstPlainArithmetic(t *testing.T) {
	calls, each := 20_000, 200
	if os.Getenv("LLMPROXY_LONG") == "1" {
		calls = 1_000_000
	}
	s := newStage(t)
	for n := range calls / each {
		h := newSchedule(s, rand.New(rand.NewPCG(7, uint64(n))))
		for step := range each {
			if fault := h.step(); fault != "" {
				t.Fatalf("schedule %d, step %d: %s\nplain: %v", n, step, fault, h.plain)
			}
		}
		h.end()
		if t.Failed() {
			t.Fatalf("schedule %d", n)
		}
	}
}

func newSchedule(s *stage, rnd *rand.Rand) *schedule {
	h := &schedule{stage: s, rnd: rnd, tag: s.tag(), plain: newPlain(), quota: rnd.Int64N(4) * 300}
	for i := range h.limits {
		h.limits[i] = limit.Limits{
			PerSecond: h.rate(8), PerMinute: h.rate(20), Tokens: h.rate(500), Concurrent: rnd.Int64N(7),
		}
	}
	if rnd.IntN(2) == 0 {
		h.limits[1] = h.limits[0]
	}
	for i := range h.nodes {
		h.nodes[i] = node{name: "n" + string('0'+byte(i)), start: s.at(-time.Hour), end: s.at(24 * time.Hour)}
	}
	return h
}

// rate is one that is used up and full again within some seconds; now and then none.
func (h *schedule) rate(burst int64) limit.Rate {
	switch h.rnd.IntN(5) {
	case 0:
		return limit.Rate{}
	case 1:
		return limit.Rate{Each: 1 + time.Duration(h.rnd.Int64N(2000)), Burst: 1 + h.rnd.Int64N(burst)} // faster than the clock
	}
	return limit.Rate{Each: 1 + time.Duration(h.rnd.Int64N(int64(5*time.Second)/burst)), Burst: 1 + h.rnd.Int64N(burst)}
}

func (h *schedule) step() (fault string) {
	h.pass(time.Duration(h.rnd.ExpFloat64() * float64(300*time.Millisecond)))
	n := &h.nodes[h.rnd.IntN(len(h.nodes))]
	switch h.rnd.IntN(40) {
	case 0:
		h.event(n)
	case 1:
		h.lose()
	case 2, 3, 4:
		return h.settled(n, settlement{quota: h.account(n)}, held{}) // published again
	case 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18:
		if len(n.leases) > 0 {
			return h.move(n)
		}
	default:
		return h.ask(n)
	}
	return ""
}

// event is something rare, but for losses.
func (h *schedule) event(n *node) {
	switch h.rnd.IntN(6) {
	case 0:
		h.pass(-time.Duration(h.rnd.Int64N(int64(time.Minute))))
	case 1:
		h.pass(time.Duration(h.rnd.Int64N(int64(3 * time.Minute))))
	case 2: // a reset
		n.start, n.used = max(n.start+1, h.at(0)), 0
	case 3: // a clock that is wrong
		n.start, n.used = h.at(time.Duration(h.rnd.Int64N(int64(3*time.Minute)))), 0
	case 4: // another period
		n.end = h.at(time.Duration(h.rnd.Int64N(int64(48 * time.Hour))))
		if h.rnd.IntN(2) == 0 {
			n.end = never
		}
	case 5: // a node that restarts without its books
		n.used = 0
	}
}

func (h *schedule) lose() {
	keys := [3]string{"p:{" + h.tag + "}:b", "p:{" + h.tag + "}:c", "p:{" + h.tag + "}:q"}
	switch i := h.rnd.IntN(5); i {
	case 3:
		h.stale = h.plain.copy()
		for i, key := range keys {
			h.dumps[i] = h.server.Must("DUMP", key)
		}
	case 4:
		if h.stale == nil {
			return
		}
		h.plain = h.stale.copy()
		for i, key := range keys {
			h.server.Must("DEL", key)
			if h.dumps[i] != "" {
				h.server.Must("RESTORE", key, "0", h.dumps[i])
			}
		}
	default:
		h.server.Must("DEL", keys[i])
		switch i {
		case 0:
			h.plain.second, h.plain.minute, h.plain.tokens = level{}, level{}, level{}
		case 1:
			clear(h.plain.leases)
		case 2:
			h.plain.term = nil
		}
	}
}

func (h *schedule) account(n *node) quotaAsk {
	if h.rnd.IntN(8) == 0 {
		return quotaAsk{}
	}
	return quotaAsk{node: n.name, start: n.start, end: n.end, used: n.used, limit: h.quota}
}

func (h *schedule) ask(n *node) string {
	h.number++
	a := ask{
		tag: h.tag, limits: &h.limits[h.rnd.IntN(2)], requests: min(h.rnd.Int64N(6), 1), tokens: h.rnd.Int64N(200),
		ttl: 30 * time.Second, quota: h.account(n),
	}
	a.quota.hold = h.rnd.Int64N(200)
	if h.rnd.IntN(8) > 0 {
		a.lease = fmt.Sprintf("%s.%d", n.name, h.number)
	}
	if h.rnd.IntN(8) == 0 {
		a.notAfter = h.now + h.rnd.Int64N(3) - 1
	}
	want := h.plain.admit(h.now, &a)
	got := h.admit(a)
	if got != want {
		return fmt.Sprintf("asked %+v with limits %+v:\nanswer %+v\n  want %+v", a, *a.limits, got, want)
	}
	if got.by == 0 && !got.late && a.requests > 0 && a.lease != "" {
		l := held{tokens: a.held(), quota: a.heldOfQuota(), start: got.start}
		n.leases, n.members = append(n.leases, l), append(n.members, member(a.lease, l.tokens, l.quota, l.start))
	}
	return ""
}

// move charges, renews or ends a lease.
func (h *schedule) move(n *node) string {
	i := h.rnd.IntN(len(n.leases))
	l, m := n.leases[i], n.members[i]
	w := settlement{lease: m, ttl: 30 * time.Second, tokens: h.limits[h.rnd.IntN(2)].Tokens}
	last := len(n.leases) - 1
	switch h.rnd.IntN(4) {
	case 0:
		w.keep = m
	case 1:
		part := min(l.tokens, h.rnd.Int64N(64))
		w.charge, l.tokens, l.quota = part+h.rnd.Int64N(3), l.tokens-part, l.quota+h.rnd.Int64N(20)
		name, _, _ := strings.Cut(m, ":")
		w.keep = member(name, l.tokens, l.quota, l.start)
		n.leases[i], n.members[i] = l, w.keep
	case 2: // it dies with it
		n.leases[i], n.members[i] = n.leases[last], n.members[last]
		n.leases, n.members = n.leases[:last], n.members[:last]
		return ""
	default:
		w.charge = h.rnd.Int64N(300)
		n.used += w.charge
		n.leases[i], n.members[i] = n.leases[last], n.members[last]
		n.leases, n.members = n.leases[:last], n.members[:last]
	}
	w.quota = h.account(n)
	return h.settled(n, w, l)
}

func (h *schedule) settled(n *node, w settlement, l held) string {
	w.tag = h.tag
	for range 1 + h.rnd.IntN(8)/7 { // now and then it comes twice
		want := h.plain.settle(h.now, &w, l)
		if got := h.settle(w); got != want {
			return fmt.Sprintf("%s settled %+v: %+v, want %+v", n.name, w, got, want)
		}
		w.charge = 0
	}
	return ""
}

// end checks that every key goes away, and that all that nodes have used comes
// together whatever was lost.
func (h *schedule) end() {
	h.t.Helper()
	for _, kind := range []string{"b", "c", "q"} {
		key := "p:{" + h.tag + "}:" + kind
		forever := kind == "q" && h.plain.term != nil && h.plain.term.end == never
		if left := h.left(key); left == -1 && !forever && h.stale == nil {
			h.t.Errorf("%s stays for ever", key)
		} else if forever && left > 0 {
			h.t.Errorf("%s goes in %v, and its term never ends", key, left)
		}
	}
	h.pass(4 * time.Minute)
	start, sum := h.at(0), int64(0)
	for i := range h.nodes {
		h.nodes[i].start = start
		sum += h.nodes[i].used
	}
	var got settled
	for _, i := range append(h.rnd.Perm(3), h.rnd.Perm(3)...) {
		n := &h.nodes[i]
		got = h.settle(settlement{tag: h.tag, quota: quotaAsk{node: n.name, start: n.start, end: never, used: n.used}})
	}
	if got.start != start || got.used != sum {
		h.t.Errorf("the term is %d with %d used, want %d with %d, as all have said", got.start, got.used, start, sum)
	}
}
