package keystore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// documents is what Redis has, by id: a hash has no order of its own.
func documents(t testing.TB, s *redistest.Server) string {
	t.Helper()
	fields := strings.Split(s.Must("HGETALL", "llmproxy:{keys}:keys"), "\n")
	lines := make([]string, 0, len(fields)/2)
	for pair := range slices.Chunk(fields, 2) {
		lines = append(lines, strings.Join(pair, " "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// move leads the gateways to another server; the one before dies.
func move(from, to *redistest.Server, gates ...*gate) {
	addr := to.Addr()
	for _, g := range gates {
		g.place.Store(&addr)
	}
	from.Kill()
}

// copyOf is a server with what another has now, and nothing of what comes.
func copyOf(t testing.TB, s *redistest.Server) *redistest.Server {
	t.Helper()
	r := s.Replica(t)
	r.Must("REPLICAOF", "NO", "ONE")
	return r
}

func TestARevocationHoldsThroughARestart(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
	}{{"with all that was written", []string{"--appendonly", "yes", "--appendfsync", "always"}}, {"with nothing", nil}} {
		t.Run(c.name, func(t *testing.T) {
			s := redistest.Start(t, c.args...)
			a, b := runs(t, s), runs(t, s)
			k := at(1, "one")
			add(t, a, k)
			add(t, a, at(2, "two"))
			has(t, "one two", b)
			remove(t, a, k)
			s.Kill()
			s.Restart()
			a.synced()
			b.synced()
			has(t, "two", a, b, runs(t, s))
			if text := documents(t, s); !strings.Contains(text, `"deleted":true`) {
				t.Errorf("Redis has %s", text)
			}
		})
	}
}

// What a backup has of a key was true once; who has seen it revoked knows better.
// There are as many documents as before.
func TestARevocationHoldsThroughARestoreOfAnOlderDump(t *testing.T) {
	s := redistest.Start(t)
	a, b := runs(t, s), runs(t, s)
	one, two := at(1, "one"), at(2, "two")
	add(t, a, one)
	add(t, a, two)
	s.Must("SAVE")
	remove(t, a, one)
	replace(t, b, two, disable)
	has(t, "two", a, b)
	s.Kill()
	s.Restart() // loads the dump
	a.synced()
	fresh := runs(t, s)
	has(t, "two", a, b, fresh)
	if !fresh.Keys()[0].Disabled {
		t.Error("a key that was disabled is not")
	}
}

func TestAnEmptiedStoreIsFilledAgain(t *testing.T) {
	s := redistest.Start(t)
	a, b := runs(t, s), runs(t, s)
	one := at(1, "one")
	add(t, a, one)
	add(t, a, at(2, "two"))
	remove(t, a, one)
	has(t, "two", b)
	before := documents(t, s)
	s.Must("FLUSHALL")
	eventually(t, "both have seen it", func() bool { return a.State().Losses == 1 && b.State().Losses == 1 })
	for _, g := range []*gate{a, b} {
		g.synced()
		if !strings.Contains(g.log.String(), "level=ERROR msg=\"the key store was emptied") || names(g) != "two" {
			t.Errorf("keys %s, log %s", names(g), g.log.String())
		}
	}
	if after := documents(t, s); after != before {
		t.Errorf("before\n%s\nafter\n%s", before, after)
	}
	add(t, b, at(3, "three"))
	has(t, "two three", a, b, runs(t, s))
}

// While it is filled nobody may take the store for whole, or for a new one.
func TestAStoreThatIsBeingFilledIsNotWhole(t *testing.T) {
	s := redistest.Start(t)
	s.Must("SET", "llmproxy:{keys}:epoch", "abc:restoring")
	s.Must("HSET", "llmproxy:{keys}:keys", at(1, "").ID().String(), `{"rev":5,"id":"`+at(1, "").ID().String()+`","deleted":true}`)
	g := gateOf(t, s.Addr(), t.TempDir()).run()
	eventually(t, "it waits", func() bool {
		return strings.Contains(fmt.Sprint(g.State().Err), "waiting for the gateway that puts its keys back")
	})
	if st := g.State(); st.Complete {
		t.Errorf("%+v", st)
	}
	s.Must("SET", "llmproxy:{keys}:epoch", "abc")
	g.synced()
}

// Who began to fill it may have died.
func TestAStoreThatIsHalfFilledIsFilled(t *testing.T) {
	s := redistest.Start(t)
	g := runs(t, s)
	add(t, g, at(1, "one"))
	has(t, "one", g)
	epoch := s.Must("GET", "llmproxy:{keys}:epoch")
	s.Must("FLUSHALL")
	s.Must("SET", "llmproxy:{keys}:epoch", epoch+":restoring")
	has(t, "one", runs(t, s), g)
}

func TestAReplicaThatLags(t *testing.T) {
	for _, c := range []struct {
		name string
		back string // what the replica has not got
		make func(t testing.TB, s *redistest.Server) *redistest.Server
	}{{"lacks the last changes", "had lost changes", copyOf}, {"is empty", "was emptied", func(t testing.TB, _ *redistest.Server) *redistest.Server { return redistest.Start(t) }}} {
		t.Run(c.name, func(t *testing.T) {
			s := redistest.Start(t)
			a, b := runs(t, s), runs(t, s)
			one, two := at(1, "one"), at(2, "two")
			add(t, a, one)
			add(t, a, two)
			replica := c.make(t, s)
			remove(t, a, one)
			add(t, a, at(3, "three"))
			replace(t, a, two, disable)
			eventually(t, "all is everywhere", func() bool { return names(b) == "two three" && b.Keys()[0].Disabled })
			move(s, replica, a, b)
			a.synced()
			b.synced()
			fresh := runs(t, replica)
			has(t, "two three", a, b, fresh)
			if !a.Keys()[0].Disabled || !fresh.Keys()[0].Disabled {
				t.Error("a change was forgotten")
			}
			if log := a.log.String() + b.log.String(); !strings.Contains(log, c.back) {
				t.Errorf("log: %s", log)
			}
			remove(t, b, two)
			has(t, "three", a, fresh)
		})
	}
}

// Either of two knows of a revocation that the other has not seen.
func TestTwoWhoKnowDifferentThingsHealEachOther(t *testing.T) {
	s := redistest.Start(t)
	a, b := runs(t, s), runs(t, s)
	one, two, three := at(1, "one"), at(2, "two"), at(3, "three")
	for _, k := range []*auth.Key{one, two, three} {
		add(t, a, k)
	}
	has(t, "one two three", b)
	left, right := copyOf(t, s), copyOf(t, s)
	move(s, left, a)
	move(s, right, b)
	a.synced()
	b.synced()
	remove(t, a, one)
	replace(t, a, three, disable)
	add(t, a, at(4, "four"))
	remove(t, b, two)
	add(t, b, at(5, "five"))
	replace(t, b, three, func(k auth.Key) (*auth.Key, error) {
		k.Name, k.Disabled = "later", false
		return &k, nil
	})
	move(left, right, a)
	a.synced()
	fresh := runs(t, right)
	has(t, "later four five", a, b, fresh)
}

// Part of what Redis has can go alone, by a policy of eviction or by hand.
func TestPartsThatGoAlone(t *testing.T) {
	s := redistest.Start(t)
	g := runs(t, s)
	one, two := at(1, "one"), at(2, "two")
	add(t, g, one)
	add(t, g, two)
	for _, command := range [][]string{
		{"DEL", "llmproxy:{keys}:keys"},
		{"HDEL", "llmproxy:{keys}:keys", one.ID().String()},
		{"HSET", "llmproxy:{keys}:keys", one.ID().String(), "nonsense"},
		{"DEL", "llmproxy:{keys}:log"},
		{"DEL", "llmproxy:{keys}:epoch"},
		{"XADD", "llmproxy:{keys}:log", "*", "a", "person"},
	} {
		before := documents(t, s)
		s.Must(command...)
		if command[0] == "HSET" { // nothing tells of it, but for the key that is wanted
			replace(t, g, one, disable)
		} else {
			began := time.Now()
			eventually(t, "a look after it", func() bool { return g.State().Synced.After(began) || g.State().Err != nil })
		}
		g.synced()
		add(t, g, at(3, "three"))
		has(t, "one two three", g, runs(t, s))
		remove(t, g, at(3, "three"))
		if after := documents(t, s); len(after) < len(before) {
			t.Errorf("%v: before\n%s\nafter\n%s", command, before, after)
		}
	}
}

// What is in the log and no change must not make everybody read all keys for ever.
func TestAnEntryThatIsNoChange(t *testing.T) {
	s := redistest.Start(t)
	g := runs(t, s)
	add(t, g, at(1, "one"))
	has(t, "one", g)
	scans := func() (n string) {
		g.synced()
		for line := range strings.Lines(s.Must("INFO", "commandstats")) {
			if strings.HasPrefix(line, "cmdstat_hscan:") {
				n, _, _ = strings.Cut(line, ",")
			}
		}
		return n
	}
	for _, id := range []string{"*", "5000000000000000-7", "5000000000000001-0"} {
		s.Must("XADD", "llmproxy:{keys}:log", id, "a", "person")
		g.synced()
		before := scans()
		for range 5 {
			g.synced()
		}
		if after := scans(); after != before || after == "" {
			t.Errorf("after %s: %s and then %s", id, before, after)
		}
	}
	add(t, g, at(2, "two"))
	has(t, "one two", runs(t, s))
}

func TestAChangeOfWhatTheStoreHasJustLost(t *testing.T) {
	s := redistest.Start(t)
	g := runs(t, s)
	k := at(1, "one")
	add(t, g, k)
	s.Must("HDEL", "llmproxy:{keys}:keys", k.ID().String())
	if k := replace(t, g, k, disable); !k.Disabled {
		t.Error("not disabled")
	}
	s.Must("FLUSHALL")
	if _, err := g.Replace(k.ID(), enable); err != nil && !errors.Is(err, redis.ErrAway) {
		t.Errorf("in an emptied store: %v", err)
	}
	g.synced()
	replace(t, g, k, enable)
}

// Whoever was away for longer than the log reaches must read all.
func TestAGapInTheLog(t *testing.T) {
	s := redistest.Start(t)
	proxy := redistest.NewProxy(t, s.Addr())
	a, b := runs(t, s), gateOf(t, proxy.Addr(), t.TempDir()).run()
	for n := range 5 {
		add(t, a, at(n, fmt.Sprint(n)))
	}
	has(t, "0 1 2 3 4", b)
	for trim := range 2 {
		proxy.Cut()
		remove(t, a, at(trim, fmt.Sprint(trim)))
		add(t, a, at(10+trim, fmt.Sprint(10+trim)))
		remove(t, a, at(2+trim, fmt.Sprint(2+trim)))
		s.Must("XTRIM", "llmproxy:{keys}:log", "MAXLEN", fmt.Sprint(trim))
		proxy.Mend()
		has(t, []string{"1 3 4 10", "4 10 11"}[trim], a, b)
		if b.State().Losses != 0 || a.State().Losses != 0 {
			t.Error("the store was not lost")
		}
	}
}

func TestAStoreOfSomebodyElse(t *testing.T) {
	s, other := redistest.Start(t), redistest.Start(t)
	a, b := runs(t, s), runs(t, other)
	add(t, a, at(1, "one"))
	add(t, b, at(2, "theirs"))
	theirs := documents(t, other)
	move(s, other, a)
	eventually(t, "it is seen", func() bool { return a.State().Foreign })
	st := a.State()
	if st.Complete || names(a) != "one" || !strings.Contains(fmt.Sprint(st.Err), "holds the keys of another store") || !strings.Contains(fmt.Sprint(st.Err), "keys-snapshot.json") {
		t.Errorf("%s, %+v", names(a), st)
	}
	for _, err := range []error{a.Add(at(3, "three")), second(a.Remove(at(1, "one").ID())), second(a.Replace(at(2, "theirs").ID(), disable))} {
		if err == nil || errors.Is(err, redis.ErrAway) || !strings.Contains(err.Error(), "another store") {
			t.Errorf("changed: %v", err)
		}
	}
	if now := documents(t, other); now != theirs || names(b) != "theirs" {
		t.Errorf("their keys were %s and are %s", theirs, now)
	}
	// The advice of the error, first half and second.
	s.Restart()
	move(other, s, a)
	a.synced()
	has(t, "one", a)
	other.Restart() // which b fills again
	dir := a.dir
	a.stop()
	if err := os.Remove(filepath.Join(dir, "keys-snapshot.json")); err != nil {
		t.Fatal(err)
	}
	b.synced()
	a = gateOf(t, other.Addr(), dir).run()
	a.synced()
	has(t, "theirs", a)
}

func second(_ *auth.Key, err error) error { return err }

// A redis without keys is where they are to be from now on.
func TestKeysMoveToANewRedis(t *testing.T) {
	s := redistest.Start(t)
	a := runs(t, s)
	add(t, a, at(1, "one"))
	a.synced()
	a.stop()
	s.Kill()
	s = redistest.Start(t)
	a = gateOf(t, s.Addr(), a.dir).run()
	a.synced()
	has(t, "one", a, runs(t, s))
}

var _ = []keystore.Store{(*keystore.File)(nil), (*keystore.Redis)(nil)}
