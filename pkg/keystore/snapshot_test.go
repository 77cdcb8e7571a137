package keystore_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// left is what a gateway that knew some keys has left on its disk.
func left(t testing.TB, s *redistest.Server) (dir string) {
	t.Helper()
	g := runs(t, s)
	gone := at(0, "zero")
	add(t, g, gone)
	add(t, g, at(1, "one"))
	k := at(2, "two")
	add(t, g, k)
	replace(t, g, k, disable)
	remove(t, g, gone)
	g.synced()
	g.stop()
	return g.dir
}

func snapshotOf(dir string) string { return filepath.Join(dir, "keys-snapshot.json") }

// later is a gateway that starts as much later.
func later(d time.Duration) func(*keystore.RedisOptions) {
	return func(o *keystore.RedisOptions) { o.Now = func() time.Time { return time.Now().Add(d) } }
}

func TestASnapshotServesWhileRedisIsAway(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	dir := left(t, s)
	if info, err := os.Stat(snapshotOf(dir)); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	s.Kill()
	for age, serves := range map[time.Duration]bool{
		9 * time.Minute: true, 11 * time.Minute: false,
		-9 * time.Minute: true, -11 * time.Minute: false, // a clock that was set back hides how old it is
	} {
		g := gateOf(t, s.Addr(), dir, later(age))
		st := g.State()
		want, source := "", "none"
		if serves {
			want, source = "one two", "snapshot"
		}
		if names(g) != want || st.Source != source || st.Complete || st.Synced.IsZero() || st.Version == 0 || st.Err == nil {
			t.Errorf("after %v: %q, %+v", age, names(g), st)
		}
		if serves && !g.Keys()[1].Disabled {
			t.Error("a key that was disabled is not")
		}
		if log := g.log.String(); strings.Contains(log, "too old to serve") == serves {
			t.Errorf("after %v: log %s", age, log)
		}
	}
	s.Restart()
	g := gateOf(t, s.Addr(), dir, later(time.Hour)).run()
	g.synced()
	has(t, "one two", g)
}

// What it knows of revocations holds however old it is.
func TestAnOldSnapshotRevokesWhatAnOlderStoreAllows(t *testing.T) {
	s := redistest.Start(t)
	g := runs(t, s)
	one, two := at(1, "one"), at(2, "two")
	add(t, g, one)
	add(t, g, two)
	older := copyOf(t, s)
	remove(t, g, one)
	replace(t, g, two, disable)
	g.synced()
	g.stop()
	s.Kill()
	g = gateOf(t, older.Addr(), g.dir, later(1000*time.Hour))
	if names(g) != "" {
		t.Errorf("%s serve", names(g))
	}
	g.run()
	g.synced()
	if names(g) != "two" || !g.Keys()[0].Disabled {
		t.Errorf("%s", names(g))
	}
	has(t, "two", runs(t, older))
}

// The keys of an old snapshot may have been revoked since: they must not fill a store
// that was emptied, unless the operator says so.
func TestAnOldSnapshotDoesNotFillAnEmptiedStore(t *testing.T) {
	s := redistest.Start(t)
	dir := left(t, s)
	s.Must("FLUSHALL")
	g := gateOf(t, s.Addr(), dir, later(time.Hour)).run()
	eventually(t, "it says what to do", func() bool {
		st := g.State()
		return st.Lost && !st.Complete && strings.Contains(fmt.Sprint(st.Err), "raise auth.snapshot_max_age")
	})
	g.stop()
	if n := s.Must("DBSIZE"); n != "0" {
		t.Errorf("%s keys in Redis", n)
	}
	g = gateOf(t, s.Addr(), dir, later(time.Hour), func(o *keystore.RedisOptions) { o.MaxAge = 2 * time.Hour }).run()
	g.synced()
	has(t, "one two", g, runs(t, s))
}

func TestADamagedSnapshotIsNoSnapshot(t *testing.T) {
	s := redistest.Start(t)
	dir := left(t, s)
	whole := read(t, snapshotOf(dir))
	for name, text := range map[string]string{
		"empty": "", "half": whole[:len(whole)/2], "without its last byte": whole[:len(whole)-1],
		"of a revoked key that works again": strings.Replace(whole, `"disabled"`, `"active"`, 1),
		"of another program":                `{"version":1,"keys":[]}`,
	} {
		t.Run(name, func(t *testing.T) {
			write(t, snapshotOf(dir), text, time.Now())
			g := gateOf(t, s.Addr(), dir)
			if st := g.State(); st.Complete || st.Source != "none" || names(g) != "" || !strings.Contains(fmt.Sprint(st.Err), "keys-snapshot.json:1: ") || !strings.Contains(g.log.String(), "is damaged") {
				t.Errorf("%+v, log %s", st, g.log.String())
			}
			g.run()
			g.synced()
			has(t, "one two", g)
			g.stop()
			if again := gateOf(t, s.Addr(), dir); names(again) != "one two" {
				t.Errorf("there is no good one in its place: %s", names(again))
			}
		})
	}
	// There was a store once: it must not pass for a new one.
	s.Must("FLUSHALL")
	write(t, snapshotOf(dir), "{", time.Now())
	g := gateOf(t, s.Addr(), dir).run()
	eventually(t, "it waits", func() bool { return strings.Contains(fmt.Sprint(g.State().Err), "waiting for whoever knows its keys") })
	g.stop()
	if n := s.Must("DBSIZE"); n != "0" {
		t.Errorf("%s keys in Redis", n)
	}
}

func TestASnapshotOfAnotherStore(t *testing.T) {
	s, other := redistest.Start(t), redistest.Start(t)
	dir := left(t, s)
	add(t, runs(t, other), at(1, "theirs"))
	before := read(t, snapshotOf(dir))
	for _, c := range []struct {
		age  time.Duration
		keys string
	}{{0, "one two"}, {time.Hour, ""}} {
		g := gateOf(t, other.Addr(), dir, later(c.age)).run()
		eventually(t, "it is seen", func() bool { return g.State().Foreign })
		if st := g.State(); st.Complete || names(g) != c.keys {
			t.Errorf("%s, %+v", names(g), st)
		}
		g.stop()
	}
	if read(t, snapshotOf(dir)) != before {
		t.Error("the snapshot was overwritten")
	}
}

// It must not grow old while nothing changes.
func TestASnapshotIsWrittenAnewWhileInStep(t *testing.T) {
	s := redistest.Start(t)
	g := gateOf(t, s.Addr(), t.TempDir(), func(o *keystore.RedisOptions) { o.MaxAge = 10 * time.Millisecond }).run()
	g.synced()
	add(t, g, at(1, "one"))
	var texts []string
	began := time.Now()
	eventually(t, "written three times", func() bool {
		b, err := os.ReadFile(snapshotOf(g.dir))
		if text := string(b); err == nil && strings.Contains(text, "key_hash") && (len(texts) == 0 || texts[len(texts)-1] != text) {
			texts = append(texts, text)
		}
		return len(texts) == 3
	})
	if took := time.Since(began); took < 1900*time.Millisecond {
		t.Errorf("three times in %v: the disk has more to do", took)
	}
}

func TestASnapshotThatCannotBeWrittenIsSaid(t *testing.T) {
	s := redistest.Start(t)
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keystore.OpenRedis(keystore.RedisOptions{Dir: dir, Now: time.Now}); err == nil || !strings.Contains(err.Error(), "let this user read the file") {
		t.Errorf("a snapshot that nobody may read: %v", err)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	g := gateOf(t, s.Addr(), dir)
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	g.run()
	eventually(t, "it is said", func() bool {
		return strings.Contains(fmt.Sprint(g.State().Err), "cannot write the snapshot of the keys")
	})
	if st := g.State(); !st.Complete || st.Source != "redis" {
		t.Errorf("%+v", st)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	g.synced()
	if log := g.log.String(); strings.Count(log, "there is no snapshot") != 1 {
		t.Errorf("log: %s", log)
	}
}

// What is a secret must be nowhere but with who made it.
func TestNoPlainKeyIsKept(t *testing.T) {
	s := redistest.Start(t)
	a, b := runs(t, s), runs(t, s)
	secret, err := auth.Mint()
	if err != nil {
		t.Fatal(err)
	}
	k := &auth.Key{Hash: auth.Hash(secret), Last4: secret[len(secret)-4:], Name: "canary"}
	add(t, a, k)
	has(t, "canary", b)
	a.stop()
	b.stop()
	kept := documents(t, s) + s.Must("XRANGE", "llmproxy:{keys}:log", "-", "+")
	if !strings.Contains(kept, "canary") {
		t.Errorf("Redis has %s", kept)
	}
	for _, g := range []*gate{a, b} {
		snapshot := read(t, snapshotOf(g.dir))
		if !strings.Contains(snapshot, "canary") {
			t.Errorf("the snapshot is %s", snapshot)
		}
		kept += snapshot + g.log.String() + fmt.Sprint(g.State())
	}
	if strings.Contains(kept, secret) || strings.Contains(kept, secret[12:30]) {
		t.Errorf("the key is in %s", kept)
	}
}
