package keystore_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

func TestAChangeIsMadeOnAllGateways(t *testing.T) {
	s := redistest.Start(t)
	a, b, c := runs(t, s), runs(t, s), runs(t, s)
	k := at(1, "one")
	spec, err := keystore.ParseSpec([]byte(fullSpec))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := spec.Apply(*at(2, "two"))
	if err != nil {
		t.Fatal(err)
	}
	add(t, a, k)
	add(t, b, whole)
	add(t, c, at(0, "zero"))
	has(t, "zero one n", a, b, c)
	for _, g := range []*gate{a, b, c} {
		for _, k := range g.Keys() {
			if k.Source != auth.InRedis {
				t.Errorf("key %s is said to come from %v", k.Name, k.Source)
			}
		}
	}
	if got := fmt.Sprintf("%+v", *a.Keys()[2].Limits) + a.Keys()[2].Metadata + a.Keys()[2].Last4; got != fmt.Sprintf("%+v", *whole.Limits)+whole.Metadata+whole.Last4 {
		t.Errorf("the other gateway has %s", got)
	}
	for i, g := range []*gate{a, b, c} {
		if err := g.Add(at(3, "one")); err == nil || !strings.Contains(err.Error(), "has this key already") {
			t.Errorf("gateway %d: a key twice: %v", i, err)
		}
	}
	if k := replace(t, b, k, disable); !k.Disabled || !b.Keys()[1].Disabled {
		t.Errorf("%+v is not in force where it was changed", k)
	}
	eventually(t, "disabled on all", func() bool { return a.Keys()[1].Disabled && c.Keys()[1].Disabled })
	remove(t, c, k)
	if names(c) != "zero n" {
		t.Errorf("in force where one was removed: %s", names(c))
	}
	has(t, "zero n", a, b)
	for _, g := range []*gate{a, b, c} {
		if _, err := g.Remove(k.ID()); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("removed twice: %v", err)
		}
		if _, err := g.Replace(k.ID(), enable); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("replaced after it was removed: %v", err)
		}
	}
	add(t, a, at(1, "one"))
	has(t, "zero one n", b, c)
}

// A gateway that has not heard of a change yet must not decide by what it knows.
func TestAChangeBeginsWithWhatTheStoreHas(t *testing.T) {
	s := redistest.Start(t)
	a := runs(t, s)
	late := gateOf(t, s.Addr(), "")
	if err := late.Load(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	k := at(1, "one")
	add(t, a, k)
	if k := replace(t, late, k, disable); !k.Disabled {
		t.Error("a key that another has just made is not found")
	}
	eventually(t, "disabled", func() bool { return a.Keys()[0].Disabled })
	replace(t, a, k, enable)
	replace(t, late, k, disable) // it knows of none enabled: it must not say that there is nothing to do
	eventually(t, "disabled", func() bool { return a.Keys()[0].Disabled })
	before := s.Must("XLEN", "llmproxy:{keys}:log")
	no := errors.New("no")
	if k, err := a.Replace(k.ID(), func(auth.Key) (*auth.Key, error) { return nil, no }); k != nil || !errors.Is(err, no) {
		t.Errorf("an edit that fails: %+v, %v", k, err)
	}
	if k := replace(t, a, k, disable); !k.Disabled {
		t.Error("not disabled")
	}
	if after := s.Must("XLEN", "llmproxy:{keys}:log"); after != before {
		t.Errorf("a change of nothing was written: %s, %s", before, after)
	}
}

func TestConcurrentChangesLoseNone(t *testing.T) {
	s := redistest.Start(t)
	gates := []*gate{runs(t, s), runs(t, s), runs(t, s), runs(t, s)}
	k := at(1, "one")
	add(t, gates[0], k)
	const each = 25
	var all sync.WaitGroup
	for i, g := range gates {
		all.Go(func() {
			for n := range each {
				if _, err := g.Replace(k.ID(), func(k auth.Key) (*auth.Key, error) {
					k.Quota++
					return &k, nil
				}); err != nil {
					t.Error(err)
				}
				if err := g.Add(at(2, fmt.Sprint(i, "-", n))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	for i, g := range gates {
		eventually(t, fmt.Sprintf("all is in gateway %d", i), func() bool {
			return len(g.Keys()) == 1+len(gates)*each && g.Keys()[0].Quota == int64(len(gates)*each)
		})
	}
}

// Each call builds all keys anew.
func TestChangedIsCalledForWhatMatters(t *testing.T) {
	s := redistest.Start(t)
	a, b := runs(t, s), runs(t, s)
	looks := func() {
		for range 5 {
			before := a.State().Synced
			eventually(t, "a look", func() bool { return a.State().Synced.After(before) })
		}
	}
	looks()
	n := a.changes.Load()
	looks()
	if now := a.changes.Load(); now != n || n == 0 {
		t.Errorf("%d calls, and %d while nothing changed", n, now-n)
	}
	add(t, b, at(1, "one"))
	eventually(t, "called for a change that another made", func() bool { return a.changes.Load() > n })
	has(t, "one", a)
	n = a.changes.Load()
	s.Kill()
	eventually(t, "called for what the State says", func() bool { return a.changes.Load() > n && a.State().Err != nil })
}

// Two gateways that start with a Redis that is new must not make two stores of it.
func TestANewStoreIsMadeOnce(t *testing.T) {
	s := redistest.Start(t)
	var gates []*gate
	for range 5 {
		gates = append(gates, gateOf(t, s.Addr(), t.TempDir()).run())
	}
	for i, g := range gates {
		g.synced()
		add(t, g, at(i, fmt.Sprint(i)))
	}
	has(t, "0 1 2 3 4", gates...)
}

func TestANewStoreIsLeftToOthersForAWhile(t *testing.T) {
	s := redistest.Start(t)
	g := gateOf(t, s.Addr(), t.TempDir())
	g.MakeAfter(time.Hour)
	g.run()
	eventually(t, "the Redis is asked", func() bool { return strings.Contains(fmt.Sprint(g.State().Err), "no key store yet") })
	if st := g.State(); st.Complete || st.Source != "none" || s.Must("DBSIZE") != "0" {
		t.Errorf("%+v, %s keys in Redis", st, s.Must("DBSIZE"))
	}
	if err := g.Add(at(1, "one")); !errors.Is(err, redis.ErrAway) {
		t.Errorf("a key in a store that there is none of: %v", err)
	}
	other := runs(t, s)
	add(t, other, at(1, "one"))
	has(t, "one", g)
}

func TestTheCommandLineLoadsOnce(t *testing.T) {
	s := redistest.Start(t)
	tool := gateOf(t, s.Addr(), "")
	if err := tool.Load(5 * time.Second); err != nil || len(tool.Keys()) != 0 || s.Must("DBSIZE") != "0" {
		t.Fatalf("%v, keys %s; %s keys in Redis: who only lists keys must not make a store", err, names(tool), s.Must("DBSIZE"))
	}
	var all sync.WaitGroup
	for n := range 3 {
		all.Go(func() {
			if err := tool.Add(at(n, fmt.Sprint(n))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	has(t, "0 1 2", tool, runs(t, s))
	again := gateOf(t, s.Addr(), "")
	if err := again.Load(5 * time.Second); err != nil || names(again) != "0 1 2" || !again.State().Complete {
		t.Errorf("%v, %s", err, names(again))
	}
	s.Kill()
	away := gateOf(t, s.Addr(), "")
	if err := away.Load(300 * time.Millisecond); !errors.Is(err, redis.ErrAway) || away.State().Complete {
		t.Errorf("%v", err)
	}
}

func TestAwayChangesNothing(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	g := runs(t, s)
	k := at(1, "one")
	add(t, g, k)
	for _, fault := range []struct{ begin, end func() }{{s.Stop, s.Continue}, {s.Kill, s.Restart}} {
		fault.begin()
		eventually(t, "it is seen", func() bool { return g.State().Err != nil })
		began := time.Now()
		_, err := g.Remove(k.ID())
		if took := time.Since(began); !errors.Is(err, redis.ErrAway) || took > 5*time.Second {
			t.Errorf("a change while Redis is away: %v after %v", err, took)
		}
		if st := g.State(); names(g) != "one" || st.Source != "redis" || st.Lost || st.Foreign {
			t.Errorf("%s, %+v", names(g), st)
		}
		fault.end()
		g.synced()
		if names(g) == "" { // the server that was stopped has done it later: it was asked to
			add(t, g, k)
		}
	}
	remove(t, g, k)
}

// An operator hears of a key that nobody can judge, and can take it away.
func TestADocumentOfALaterVersionIsRefusedAndSaid(t *testing.T) {
	s := redistest.Start(t)
	g := runs(t, s)
	k := at(1, "one")
	add(t, g, k)
	id := k.ID().String()
	text := s.Must("HGET", "llmproxy:{keys}:keys", id)
	later := strings.Replace(text, `"key_hash"`, `"only_on_sundays":true,"key_hash"`, 1)
	later = strings.Replace(later, `{"rev":1`, `{"rev":2`, 1)
	s.Must("HSET", "llmproxy:{keys}:keys", id, later)
	s.Must("HSET", "llmproxy:{keys}:keys", "a note of mine", "keep out")
	g2 := gateOf(t, s.Addr(), t.TempDir()).run()
	for last := range 2 { // the second time with a snapshot that says so
		eventually(t, "the key is refused", func() bool {
			st := g2.State()
			return st.Source == "redis" && !st.Complete && names(g2) == "" && strings.Contains(fmt.Sprint(st.Err), "1 keys in the key store cannot be read")
		})
		if log := g2.log.String(); !strings.Contains(log, "key_id="+id) || !strings.Contains(log, "only_on_sundays") || strings.Contains(log, "a note") {
			t.Errorf("log: %s", log)
		}
		if last == 0 {
			g2.stop()
			g2 = gateOf(t, s.Addr(), g2.dir).run()
		}
	}
	if _, err := g2.Replace(k.ID(), enable); err == nil || !strings.Contains(err.Error(), "a newer LLMProxy") {
		t.Errorf("replaced what could not be read: %v", err)
	}
	if err := g2.Add(at(1, "one")); err == nil {
		t.Error("added what could not be read")
	}
	if got, err := g2.Remove(k.ID()); err != nil || got.ID() != k.ID() {
		t.Fatal(got, err)
	}
	g2.synced()
	has(t, "", g)
}
