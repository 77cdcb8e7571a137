package keystore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// killed is the directory of a gateway as it would be if it were killed now.
func killed(t testing.TB, g *gate) string {
	t.Helper()
	dir := t.TempDir()
	// The changes first: a snapshot that comes between removes what it has.
	for _, pattern := range []string{"keys-changes-*.log", "keys-snapshot.json"} {
		paths, err := filepath.Glob(filepath.Join(g.dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			b, err := os.ReadFile(path)
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err := errors.Join(err, os.WriteFile(filepath.Join(dir, filepath.Base(path)), b, 0o600)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// inSnapshot waits until the snapshot has something.
func inSnapshot(t testing.TB, text string, gates ...*gate) {
	t.Helper()
	for _, g := range gates {
		eventually(t, "in the snapshot: "+text, func() bool {
			b, err := os.ReadFile(snapshotOf(g.dir))
			return err == nil && strings.Contains(string(b), text)
		})
	}
}

// A snapshot is written once a second: whoever is killed before the next must know
// what it has answered, and what it has heard of.
func TestARevocationHoldsThroughAKillBeforeTheSnapshot(t *testing.T) {
	s := redistest.Start(t)
	a, b := runs(t, s), runs(t, s)
	one, two := at(1, "one"), at(2, "two")
	add(t, a, one)
	add(t, a, two)
	has(t, "one two", b)
	inSnapshot(t, `"name":"two"`, a, b)
	older := copyOf(t, s)
	remove(t, a, one)
	own := killed(t, a)
	replace(t, a, two, disable)
	add(t, a, at(3, "three"))
	all := killed(t, a)
	has(t, "two three", b)
	followed := killed(t, b)
	s.Kill()
	for name, c := range map[string]struct{ dir, keys string }{
		"one that it was told of": {own, "two"}, "all that it was told of": {all, "two three"}, "what it followed": {followed, "two three"},
	} {
		g := gateOf(t, s.Addr(), c.dir)
		if names(g) != c.keys || c.keys == "two three" && !g.Keys()[0].Disabled || g.State().Source != "snapshot" {
			t.Errorf("%s: %s, %+v", name, names(g), g.State())
		}
	}
	// What the log alone has, it gives to a Redis that has not.
	g := gateOf(t, older.Addr(), followed).run()
	g.synced()
	fresh := runs(t, older)
	has(t, "two three", g, fresh)
	if !fresh.Keys()[0].Disabled {
		t.Error("a key that was disabled is not")
	}
}

// What is in a snapshot is of no use any more, nor without the snapshot that it was
// added to.
func TestChangesAreRemoved(t *testing.T) {
	s := redistest.Start(t)
	g := runs(t, s)
	for n := range 5 {
		add(t, g, at(n, fmt.Sprint(n)))
	}
	changes := func(dir string) int {
		paths, err := filepath.Glob(filepath.Join(dir, "keys-changes-*.log"))
		if err != nil {
			t.Fatal(err)
		}
		return len(paths)
	}
	if n := changes(g.dir); n != 1 {
		t.Errorf("%d files after some changes", n)
	}
	dir := killed(t, g)
	inSnapshot(t, `"name":"4"`, g)
	eventually(t, "they are removed", func() bool { return changes(g.dir) == 0 })
	g.stop()
	if err := os.Remove(snapshotOf(dir)); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	if g = gateOf(t, s.Addr(), dir); names(g) != "" || changes(dir) != 0 || g.State().Version != 0 {
		t.Errorf("without a snapshot: %s, %d files, %+v", names(g), changes(dir), g.State())
	}
}

func TestChangesThatAreDamaged(t *testing.T) {
	s := redistest.Start(t)
	g := runs(t, s)
	one, two := at(1, "one"), at(2, "two")
	add(t, g, one)
	add(t, g, two)
	inSnapshot(t, `"name":"two"`, g)
	remove(t, g, one)
	replace(t, g, two, disable)
	dir := killed(t, g)
	s.Kill()
	path, err := filepath.Glob(filepath.Join(dir, "keys-changes-*.log"))
	if err != nil || len(path) != 1 {
		t.Fatal(path, err)
	}
	whole := read(t, path[0])
	for _, c := range []struct {
		name, text, keys string
		torn             bool
	}{
		{"whole", whole, "two", true},
		{"a line that a crash has torn", whole + whole[:len(whole)/2-20], "two", true},
		{"a file without its last byte", whole[:len(whole)-1], "two", true},
		{"a line that was changed", strings.Replace(whole, `"deleted"`, `"delete "`, 1), "", false},
		{"zeros", "\x00\x00\n" + whole, "", false},
	} {
		write(t, path[0], c.text, time.Now())
		g := gateOf(t, s.Addr(), dir)
		if names(g) != c.keys || strings.Contains(g.log.String(), "are lost") == c.torn || (g.State().Source == "snapshot") != c.torn {
			t.Errorf("%s: %q, %+v, log %s", c.name, names(g), g.State(), g.log.String())
		}
	}
	// They serve again when Redis has told all, and what was lost is lost for good.
	s.Restart()
	write(t, path[0], "\x00\x00\n"+whole, time.Now())
	g.stop()
	g = gateOf(t, s.Addr(), dir, later(0)).run()
	eventually(t, "the store was emptied, and this one may not fill it", func() bool { return g.State().Lost && !g.State().Complete })
}

// Neither a key that was made nor one that was revoked may wait for a disk, and nobody
// may believe that the disk has it.
func TestAKeyHoldsWithoutADisk(t *testing.T) {
	s := redistest.Start(t)
	g := runs(t, s)
	one := at(1, "one")
	add(t, g, one)
	inSnapshot(t, `"name":"one"`, g)
	if err := os.RemoveAll(g.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	remove(t, g, one)
	if st := g.State(); names(g) != "" || st.Err == nil || !strings.Contains(g.log.String(), "disk") {
		t.Errorf("%s, %+v, log %s", names(g), st, g.log.String())
	}
	if err := os.Remove(g.dir); err != nil {
		t.Fatal(err)
	}
	g.synced()
	g.stop()
	s.Kill()
	if g = gateOf(t, s.Addr(), g.dir); names(g) != "" || g.State().Source != "snapshot" {
		t.Errorf("%s, %+v", names(g), g.State())
	}
}

// A gateway that is cut off does not hear of keys that are made elsewhere.
func TestAGatewayThatIsCutOffCannotJudge(t *testing.T) {
	s := redistest.Start(t)
	proxy := redistest.NewProxy(t, s.Addr())
	a, b := runs(t, s), gateOf(t, proxy.Addr(), t.TempDir()).run()
	one, two := at(1, "one"), at(2, "two")
	add(t, a, one)
	add(t, a, two)
	replace(t, a, one, disable)
	eventually(t, "it has all", func() bool { return names(b) == "one two" && b.Keys()[0].Disabled })
	b.synced()
	for name, fault := range map[string]struct{ begin, end func() }{
		"refused": {proxy.Cut, proxy.Mend}, "silent": {s.Stop, s.Continue},
	} {
		began := time.Now()
		n := b.changes.Load()
		fault.begin()
		eventually(t, name+": it is seen", func() bool { return b.State().Err != nil })
		eventually(t, name+": it knows that it does not know", func() bool { return !b.State().Complete })
		took := time.Since(began)
		t.Logf("%s: after %v", name, took)
		if took < 1400*time.Millisecond || took > 10*time.Second {
			t.Errorf("%s: after %v", name, took)
		}
		eventually(t, "it is told", func() bool { return b.changes.Load() > n })
		if st := b.State(); names(b) != "one two" || !b.Keys()[0].Disabled || st.Source != "redis" {
			t.Errorf("%s: %s, %+v", name, names(b), st)
		}
		fault.end()
		b.synced()
	}
}

var _ keystore.Store = (*gate)(nil)
