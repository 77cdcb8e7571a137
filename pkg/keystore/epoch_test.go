package keystore_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// A store that has documents is none that somebody may begin.
func TestDocumentsWithoutAnEpochAreNoNewStore(t *testing.T) {
	s := redistest.Start(t)
	old := runs(t, s)
	add(t, old, at(1, "one"))
	old.synced()
	old.stop()
	epoch := s.Must("GET", "llmproxy:{keys}:epoch")
	s.Must("DEL", "llmproxy:{keys}:epoch")
	fresh := gateOf(t, s.Addr(), t.TempDir()).run()
	eventually(t, "it waits", func() bool { return strings.Contains(fmt.Sprint(fresh.State().Err), "has lost its epoch") })
	if st := fresh.State(); st.Complete || s.Must("EXISTS", "llmproxy:{keys}:epoch") != "0" {
		t.Errorf("%+v", st)
	}
	// A copy that is too old to serve knows whose they are.
	old = gateOf(t, s.Addr(), old.dir, later(time.Hour)).run()
	old.synced()
	fresh.synced()
	has(t, "one", old, fresh)
	if now := s.Must("GET", "llmproxy:{keys}:epoch"); now != epoch {
		t.Errorf("the epoch was %s and is %s", epoch, now)
	}
}

func TestDocumentsWhoseEpochNobodyKnowsAreAdopted(t *testing.T) {
	s := redistest.Start(t)
	old := runs(t, s)
	add(t, old, at(1, "one"))
	old.stop()
	s.Must("DEL", "llmproxy:{keys}:epoch")
	g := gateOf(t, s.Addr(), t.TempDir())
	g.AdoptAfter(0)
	g.run()
	g.synced()
	has(t, "one", g)
	if log := g.log.String(); !strings.Contains(log, "nobody knows the epoch") {
		t.Errorf("log: %s", log)
	}
}

// What the error of a gateway says must bring the keys of both stores together.
func TestARivalStoreIsJoined(t *testing.T) {
	s := redistest.Start(t)
	proxy := redistest.NewProxy(t, s.Addr())
	a, b := gateOf(t, proxy.Addr(), t.TempDir()).run(), gateOf(t, proxy.Addr(), t.TempDir()).run()
	a.synced()
	one, two, gone := at(1, "one"), at(2, "two"), at(0, "gone")
	for _, k := range []*auth.Key{one, two, gone} {
		add(t, a, k)
	}
	remove(t, a, gone)
	has(t, "one two", a, b)
	proxy.Cut()
	s.Must("FLUSHALL")
	rival := runs(t, s)
	add(t, rival, at(2, "two")) // the same key; later, and disabled
	replace(t, rival, two, disable)
	add(t, rival, at(3, "three"))
	rival.synced()
	proxy.Mend()
	eventually(t, "both see it", func() bool { return a.State().Foreign && b.State().Foreign })
	advice := regexp.MustCompile(`redis-cli SET '([^']+)' (\w+); then stop each gateway that says the same after it, remove its keys-snapshot.json and start it again`)
	m := advice.FindStringSubmatch(fmt.Sprint(a.State().Err))
	if m == nil || !strings.Contains(a.log.String(), "redis-cli SET '"+m[1]+"' "+m[2]) {
		t.Fatalf("%v, log %s", a.State().Err, a.log.String())
	}
	s.Must("SET", m[1], m[2])
	a.synced()
	b.synced()
	eventually(t, "the rival sees it", func() bool { return rival.State().Foreign })
	rival.stop()
	if err := os.Remove(snapshotOf(rival.dir)); err != nil {
		t.Fatal(err)
	}
	rival = gateOf(t, s.Addr(), rival.dir).run()
	rival.synced()
	has(t, "one two three", a, b, rival, runs(t, s))
	for _, g := range []*gate{a, b, rival} {
		if !g.Keys()[1].Disabled {
			t.Error("the later of two changes does not hold")
		}
	}
}

// Any document that nobody can read can be taken away, by whatever way.
func TestAnUnreadableDocumentCanBeTakenAway(t *testing.T) {
	for name, c := range map[string]struct {
		document string
		known    bool // to the gateway, before
	}{
		"empty": {"", false}, "nonsense": {"nonsense", false}, "of another version": {`{"rev":5,"x":1}`, false},
		"empty, of a key": {"", true}, "of another version, of a key": {`{"rev":9000000000000000,"x":1}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t)
			g := runs(t, s)
			id := at(1, "one").ID()
			add(t, g, at(2, "two"))
			if c.known {
				add(t, g, at(1, "one"))
			}
			byHand := func(*gate) error { s.Must("HDEL", "llmproxy:{keys}:keys", id.String()); return nil }
			remove := func(g *gate) error { return second(g.Remove(id)) }
			for _, take := range map[bool][]func(*gate) error{false: {byHand, remove}, true: {remove}}[c.known] {
				s.Must("HSET", "llmproxy:{keys}:keys", id.String(), c.document)
				late := gateOf(t, s.Addr(), t.TempDir()).run()
				eventually(t, "it is seen", func() bool {
					return strings.Contains(fmt.Sprint(late.State().Err), "cannot be read") || late.State().Err == nil && c.known
				})
				if err := take(late); err != nil {
					t.Fatal(err)
				}
				late.synced()
				late.stop()
				again := gateOf(t, s.Addr(), late.dir)
				if log := again.log.String(); strings.Contains(log, "damaged") || again.State().Source != "snapshot" {
					t.Errorf("the snapshot: %s", log)
				}
			}
			g.synced()
		})
	}
}

// Who has seen a later document refuses what others put in its place, and must take
// what it has itself put there.
func TestARemovalIsLaterThanWhatCouldNotBeRead(t *testing.T) {
	s := redistest.Start(t)
	g := runs(t, s)
	one := at(1, "one")
	add(t, g, one)
	g.synced()
	id := one.ID().String()
	s.Must("HSET", "llmproxy:{keys}:keys", id, `{"rev":9000000000000000,"x":1}`)
	late := gateOf(t, s.Addr(), t.TempDir()).run()
	eventually(t, "it is seen", func() bool { return strings.Contains(fmt.Sprint(late.State().Err), "cannot be read") })
	s.Must("HDEL", "llmproxy:{keys}:keys", id)
	eventually(t, "it is put back by who knows an earlier one", func() bool { return s.Must("HEXISTS", "llmproxy:{keys}:keys", id) == "1" })
	if names(late) != "" {
		t.Errorf("%s", names(late))
	}
	remove(t, late, one)
	late.synced()
	has(t, "", g)
}
