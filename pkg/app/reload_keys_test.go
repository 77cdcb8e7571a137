package app

import (
	"log/slog"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// TestKeysThatWereNotPutInForceAreTriedAgain: a revocation that was in the file
// stayed out of force for good, and the metric said that all was well.
func TestKeysThatWereNotPutInForceAreTriedAgain(t *testing.T) {
	store, err := keystore.OpenFile(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	key := &auth.Key{Hash: auth.Hash("sk-revoked")}
	id := key.ID()
	k := &keys{store: store, file: store, log: slog.New(slog.DiscardHandler), shadowed: map[auth.ID]bool{}}
	s := stats.New("test", "go")
	k.register(s)
	inForce := func() bool { _, ok := k.ring.Load().Get(id); return ok }
	if err := store.Add(key); err != nil {
		t.Fatal(err)
	}
	if err := k.changed(); err != nil || !inForce() {
		t.Fatal(err)
	}
	if _, err := store.Remove(id); err != nil {
		t.Fatal(err)
	}
	k.given = []*auth.Key{{}} // no ring has it
	if err := k.changed(); err == nil || !inForce() {
		t.Fatalf("%v", err)
	}
	k.reload()
	if !k.behind.Load() || !k.unreadable.Load() {
		t.Error("the file is not what is in force, and the metric does not tell it")
	}
	k.given = nil
	if k.reload(); inForce() || k.behind.Load() || k.unreadable.Load() {
		t.Error("the revocation is still not in force")
	}
}
