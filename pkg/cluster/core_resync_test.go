package cluster

import (
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// loss is what happens to a Redis, and how it comes back.
type loss struct {
	begin, end func()
	unseen     bool // nobody notices that it was away
}

// losses are of the server behind the proxy.
func losses(t *testing.T, s *redistest.Server, net *redistest.Proxy) map[string]loss {
	nothing := func() {}
	return map[string]loss{
		"cut":     {begin: net.Cut, end: net.Mend},
		"stopped": {begin: s.Stop, end: s.Continue},
		"killed":  {begin: s.Kill, end: s.Restart},
		"slow":    {begin: func() { net.SetDelay(100 * time.Millisecond) }, end: func() { net.SetDelay(0) }},
		"flushed": {begin: nothing, end: func() { s.Must("FLUSHALL") }, unseen: true},
		"emptied of one kind": {begin: nothing, unseen: true, end: func() {
			// With the beats, or it would be told a minute later.
			for key := range strings.Lines(s.Must("KEYS", "*")) {
				if key = strings.TrimSpace(key); !strings.HasSuffix(key, ":b") {
					s.Must("DEL", key)
				}
			}
		}},
	}
}

// Requests come and end before, during and after a loss, at three gateways.
func TestALossIsMadeUpFor(t *testing.T) {
	for _, name := range []string{"cut", "stopped", "killed", "slow", "flushed", "emptied of one kind"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := redistest.Start(t)
			net, way := moved(t, s)
			what := losses(t, s, net)[name]
			direct := newPeer(t, "direct", at(s.Addr()), patiently).up()
			var all [3]*player
			for i := range all {
				all[i] = &player{peer: newPeer(t, string(rune('a'+i)), way).up(), rnd: rand.New(rand.NewPCG(uint64(i), 7))}
			}
			each := func(f func(*player)) {
				var w sync.WaitGroup
				for _, p := range all {
					w.Go(func() { f(p) })
				}
				w.Wait()
			}
			each(func(p *player) { p.play(60) })
			what.begin()
			if !what.unseen {
				each(func(p *player) {
					p.play(20)
					p.playUntil(func() bool { return p.Status().State == "away" })
					p.play(40)
				})
			}
			what.end()
			each(func(p *player) { p.play(10) })
			agreed(t, direct, all[:])
			each(func(p *player) { p.play(60) })
			agreed(t, direct, all[:])
			each((*player).stop)
			agreed(t, direct, all[:])
		})
	}
}

// player makes requests, and knows which are under way.
type player struct {
	*peer
	rnd   *rand.Rand
	under []*request
	of    []want
	parts []int64
}

const playedKeys = 5

// play does so many things.
func (p *player) play(n int) {
	for range n {
		p.move()
	}
}

// playUntil goes on until it is so.
func (p *player) playUntil(cond func() bool) {
	p.until("it is as it should", func() bool { p.move(); return cond() })
}

func (p *player) move() {
	i := 0
	if len(p.under) > 0 {
		i = p.rnd.IntN(len(p.under))
	}
	switch k := p.rnd.IntN(4); {
	case k == 0 && len(p.under) > 4, len(p.under) > 20:
		p.end(i)
	case k == 1 && len(p.under) > 0:
		p.parts[i]++
		p.under[i].charge(1, 100-p.parts[i])
	default:
		o := played(byte(p.rnd.IntN(playedKeys)))
		r, w, _ := p.enter(o)
		if r == nil {
			p.t.Errorf("refused by %v", w.By)
			return
		}
		p.under, p.of, p.parts = append(p.under, r), append(p.of, o), append(p.parts, 0)
	}
}

func (p *player) end(i int) {
	p.under[i].end(p.parts[i]+3, 3)
	last := len(p.under) - 1
	p.under[i], p.of[i], p.parts[i] = p.under[last], p.of[last], p.parts[last]
	p.under, p.of, p.parts = p.under[:last], p.of[:last], p.parts[:last]
}

func (p *player) stop() {
	for len(p.under) > 0 {
		p.end(0)
	}
}

// agreed waits until Redis has exactly what is under way at all, and fails the test if
// that does not come to be.
func agreed(t *testing.T, direct *peer, all []*player) {
	t.Helper()
	for key := range byte(playedKeys) {
		o := played(key)
		var want, got standing
		for _, p := range all {
			_, term := p.account(o)
			want.used += term.Own()
			for i := range p.under {
				if p.of[i].key == key {
					want.leases++
					want.inFlight++
					want.reserved += 100 - p.parts[i]
					want.quotaReserved += 100
				}
			}
		}
		ok := func() bool {
			s := direct.standing(o)
			got = standing{leases: s.leases, inFlight: s.inFlight, used: s.used, reserved: s.reserved, quotaReserved: s.quotaReserved}
			return got == want
		}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for end := time.Now().Add(promptly); !ok(); <-tick.C {
			if time.Now().After(end) {
				t.Errorf("of key %d there is %+v, want %+v: %q", key, got, want, direct.members(o))
				break
			}
		}
	}
}

// played is what players want of a key.
func played(key byte) want {
	o := all.of(key)
	o.limits.Tokens = slowly
	return o
}

// A replica takes over that has not heard what was told of late.
func TestAReplicaThatLags(t *testing.T) {
	s := redistest.Start(t)
	between := redistest.NewProxy(t, s.Addr())
	host, port, _ := net.SplitHostPort(between.Addr())
	replica := redistest.Start(t, "--replicaof", host, port)
	front, way := moved(t, s)
	a := &player{peer: newPeer(t, "a", way).up(), rnd: rand.New(rand.NewPCG(1, 7))}
	b := &player{peer: newPeer(t, "b", way).up(), rnd: rand.New(rand.NewPCG(2, 7))}
	a.play(50)
	b.play(50)
	agreed(t, newPeer(t, "direct", at(s.Addr()), patiently).up(), []*player{a, b})
	a.until("the replica has it", func() bool { return strings.Contains(replica.Must("KEYS", "*"), "}:q") })
	between.Cut()
	a.play(100)
	b.play(100)
	a.told()
	b.told()
	replica.Must("REPLICAOF", "NO", "ONE")
	front.Move(replica.Addr())
	front.Cut()
	s.Kill()
	front.Mend()
	direct := newPeer(t, "direct", at(replica.Addr()), patiently).up()
	a.play(10)
	b.play(10)
	agreed(t, direct, []*player{a, b})
	a.stop()
	b.stop()
	agreed(t, direct, []*player{a, b})
}

// The use is set back at one gateway while Redis is away; another must hear of it even
// if the key comes to that one alone.
func TestAResetWhileRedisIsAway(t *testing.T) {
	s := redistest.Start(t)
	net, way := moved(t, s)
	a, b := newPeer(t, "a", way, hastily).up(), newPeer(t, "b", at(s.Addr()), patiently).up()
	o := all
	o.quota = 200
	b.must(o).end(200, 200)
	b.told()
	if r, _, _ := a.enter(o); r != nil {
		t.Fatal("nothing was left")
	}
	net.Cut()
	for range mostInRow {
		a.shards[0].breaker.failed(time.Now())
	}
	account, _ := a.account(o)
	a.Publish(o.id(), account.Reset(time.Now()))
	net.Mend()
	b.until("it hears of it", func() bool { r, _, _ := b.enter(o); return r != nil })
	a.up()
}

// A Redis user may be forbidden to ask which server it is.
func TestALossIsSeenWithoutInfo(t *testing.T) {
	s := redistest.Start(t)
	s.Must("ACL", "SETUSER", "default", "-info")
	p := newPeer(t, "a", at(s.Addr()), patiently).up()
	r := p.must(all)
	p.until("a beat is there", func() bool { return p.Status().Latency > 0 })
	p.until("a second beat", func() bool { return s.Must("HGET", "p:{gateways}:gateways", "a")[0] > '1' })
	s.Must("FLUSHALL")
	p.until("the lease is there again", func() bool { return p.standing(all).leases == 1 })
	r.end(1, 1)
	p.holdsNothing(all)
}

// What somebody else has put in the place of one key's counts is that key's trouble.
func TestAKeyThatCannotBeCounted(t *testing.T) {
	s := redistest.Start(t)
	s.Must("SET", "p:{"+all.tag()+"}:q", "spoiled")
	p := newPeer(t, "a", at(s.Addr()), patiently).up()
	for range 3 * mostInRow {
		r, _, ok := p.enter(all)
		if ok {
			t.Fatal("it was counted")
		}
		r.end(1, 1)
	}
	good := all.of(1)
	for range 20 {
		r := p.must(good)
		p.resyncByHand()
		r.end(1, 1)
	}
	p.holdsNothing(good)
}

// resyncByHand has the worker do one.
func (p *peer) resyncByHand() {
	p.t.Helper()
	select {
	case p.resyncs <- resync{p.shards[0], true}:
	case <-time.After(promptly):
		p.t.Fatal("the worker is stuck")
	}
}

// heardLog counts what is logged.
type heardLog struct {
	mu    sync.Mutex
	lines []string
}

func (h *heardLog) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, string(b))
	return len(b), nil
}

func (h *heardLog) has(text string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.lines {
		n += strings.Count(l, text)
	}
	return n
}

func TestABeatThatWasLateIsNoLoss(t *testing.T) {
	s := redistest.Start(t)
	net, way := moved(t, s)
	var log heardLog
	p := newPeer(t, "a", way, func(o *Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) }).byHand()
	beat := func() int {
		n, _ := strconv.Atoi(strings.Fields(s.Must("HGET", "p:{gateways}:gateways", "a") + " ")[0])
		return n
	}
	p.beats() // it had left
	heard := log.has("forgotten")
	before := beat()
	net.SetDelay(30 * time.Millisecond)
	for range 3 {
		if p.beats()[0] != nil {
			t.Fatal("it was not late")
		}
	}
	p.until("Redis has it all the same", func() bool { return beat() > before })
	net.SetDelay(0)
	p.shards[0].stale.Store(false)
	p.until("it is in time again", func() bool { return p.beats()[0] != nil })
	if p.shards[0].stale.Load() || log.has("forgotten") != heard {
		t.Errorf("it is taken for a loss: %q", log.lines)
	}
	s.Must("FLUSHALL")
	p.beats()
	if !p.shards[0].stale.Load() || log.has("forgotten") != heard+1 {
		t.Errorf("a loss is not seen: %q", log.lines)
	}
}

func TestThatThereAreFewerIsBelievedLater(t *testing.T) {
	p := newPeer(t, "b", at(redistest.Start(t).Addr()), patiently, func(o *Options) { o.Several = 3 }).byHand()
	now := time.Now()
	there := func(nodes ...string) {
		var all []Gateway
		for _, n := range nodes {
			all = append(all, Gateway{Node: n})
		}
		p.meet(all, now)
	}
	wants := func(place, several int) {
		t.Helper()
		if at, of := p.Place(); at != place || of != several {
			t.Errorf("it is %d of %d, want %d of %d", at, of, place, several)
		}
	}
	p.place.Store(3) // as a start without Redis has it
	p.fewer = time.Time{}
	wants(0, 3)
	there("b")
	wants(0, 3)
	now = now.Add(believed)
	there("a", "b")
	wants(1, 3)
	there("a", "b", "c", "d")
	wants(1, 4)
	now = now.Add(time.Hour)
	there("a", "b", "c")
	wants(1, 4)
	now = now.Add(believed)
	there("b", "c")
	wants(0, 4)
	now = now.Add(time.Millisecond)
	there("b", "c")
	wants(0, 2)
	now = now.Add(time.Second)
	there("b")
	wants(0, 2)
	there("b", "c")
	now = now.Add(believed)
	there("b")
	wants(0, 2)
	there("a", "c") // as if this one had been forgotten
	wants(0, 2)
}

func TestGatewaysKnowTheirPlaces(t *testing.T) {
	s := redistest.Start(t)
	a, c := newPeer(t, "a", at(s.Addr()), patiently), newPeer(t, "c", at(s.Addr()), patiently)
	b := newPeer(t, "b", at(s.Addr()), patiently)
	for i, p := range []*peer{a, b, c} {
		p.until("it is one of three", func() bool { at, of := p.Place(); return at == i && of == 3 })
	}
	b.Close()
	c.until("it has gone", func() bool { return len(c.Status().Gateways) == 2 })
	if _, of := c.Place(); of != 3 {
		t.Error("that is believed at once")
	}
}
