package admit_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// desk is all that decides about requests with keys, which have five limits each,
// lists of addresses and of models, beside the one for all.
type desk struct {
	ring    *auth.Keyring
	book    *quota.Book
	gate    *admit.Gate
	global  limit.Rate
	secrets [][]byte
	client  netip.Addr
	now     time.Duration
}

func newDesk(t testing.TB, n int) *desk {
	models := []string{"llama-3-*", "qwen-72b", "mistral-7b"}
	addresses := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}
	d := &desk{
		book: quota.NewBook(nil), gate: newGate(), global: limit.PerSecond(1e9, 0), client: netip.MustParseAddr("::ffff:10.0.1.7"),
	}
	keys := make([]*auth.Key, n)
	for i := range keys {
		secret := fmt.Appendf(nil, "sk-llmproxy-%036d", i)
		d.secrets = append(d.secrets, secret)
		keys[i] = &auth.Key{Name: "customer", Hash: auth.Hash(secret), Models: models, Addresses: addresses}
	}
	var err error
	d.ring, err = auth.NewKeyring(keys, auth.Defaults{
		Limits: auth.Own{RequestsPerSecond: 1e9, RequestsPerMinute: 1e11, TokensPerMinute: 1e12, MaxConcurrent: 100},
		Quota:  1e15, Mapping: map[string]string{"llama": "llama-3-70b"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// decide lets a request of 300 tokens in, by all that it is limited by.
func (d *desk) decide(ticket *admit.Ticket, secret []byte, model string) (by admit.Limit, ok bool) {
	now := at(d.now)
	key, verdict := d.ring.Find(secret, now)
	if verdict != auth.Known || !d.ring.Allows(key, d.client) || !d.ring.MayUse(key, model) {
		return admit.None, false
	}
	r := admit.Request{
		Known: true, Now: now, Wall: now, Limits: d.ring.Limits(key), Global: d.global, Prompt: 100, Output: 200,
	}
	copy(r.Who[:], key.Hash[:])
	var period quota.Period
	r.Quota, period = d.ring.Quota(key)
	r.Term = d.book.Account(key.ID()).Term(now, period, time.UTC)
	refusal, ok := d.gate.Enter(ticket, &r)
	return refusal.Limit, ok
}

// serve decides about a request, and counts what it has used.
func (d *desk) serve(secret []byte) bool {
	var ticket admit.Ticket
	if _, ok := d.decide(&ticket, secret, "qwen-72b"); !ok {
		return false
	}
	d.now += time.Microsecond
	ticket.Settle(at(d.now), 250)
	ticket.Leave(at(d.now))
	return true
}

// The numbers of the benchmarks are of requests that all limits have looked at.
func TestTheDeskAsksEveryLimit(t *testing.T) {
	d := newDesk(t, 10)
	for range 3 {
		if !d.serve(d.secrets[3]) {
			t.Fatal("refused")
		}
	}
	key, _ := d.ring.Find(d.secrets[3], birth)
	before := at(d.now - time.Microsecond) // the last began; what it used came later
	term := d.book.Account(key.ID()).Term(before, quota.Daily, time.UTC)
	use, _ := d.gate.Use(admit.Identity(key.Hash[:16]), d.ring.Limits(key), before)
	left := []int64{1e9 - 1, 1e11 - 1, 1e12 - 1250, 100}
	if len(use) != len(left) || term.Used() != 750 || term.Reserved() != 0 {
		t.Fatalf("%+v, and %d of the quota", use, term.Used())
	}
	for i, u := range use {
		if u.Remaining != left[i] {
			t.Errorf("%s: %d left, want %d", u.Name, u.Remaining, left[i])
		}
	}
	if _, passes := d.gate.Pass(before, limit.Rate{Each: d.global.Each, Burst: 1}); passes {
		t.Error("the global limit was not asked")
	}
	var ticket admit.Ticket
	for _, c := range []struct{ secret, model string }{{"sk-other", "qwen-72b"}, {string(d.secrets[3]), "qwen"}} {
		if by, ok := d.decide(&ticket, []byte(c.secret), c.model); ok || by != admit.None {
			t.Errorf("%v came to the gate", c)
		}
	}
}
