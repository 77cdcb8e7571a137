package app_test

import (
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// TestClusterRevokes: a key that is withdrawn at one gateway serves on at the others
// until each has looked for itself.
func TestClusterRevokes(t *testing.T) {
	together(t)
	s := startCluster(t, clusterPlan{})
	rounds := 30
	if long {
		rounds = 200
	}
	var made, gone []time.Duration
	for n := range rounds {
		k, known := s.spread(n % clusterSize)
		made = append(made, known...)
		gone = append(gone, s.revoked(k, n%clusterSize, n%2 == 0)...)
	}
	slices.Sort(made)
	slices.Sort(gone)
	p99 := func(d []time.Duration) time.Duration { return d[len(d)*99/100] }
	t.Logf("known at another gateway after p50 %v p99 %v, refused there after p50 %v p99 %v", made[len(made)/2], p99(made), gone[len(gone)/2], p99(gone))
	if p99(made) > time.Second || p99(gone) > time.Second {
		t.Error("a change takes more than a second")
	}
}

// spread makes a key at a gateway and returns how long it then took until each other
// one knew it.
func (s *clusterSite) spread(at int) (k clusterKey, took []time.Duration) {
	s.t.Helper()
	k = s.createOn(at, "")
	return k, s.elsewhere(at, k, http.StatusOK)
}

// revoked withdraws a key at a gateway, and returns how long it took from the call
// until each other one refused it.
func (s *clusterSite) revoked(k clusterKey, at int, deleted bool) []time.Duration {
	s.t.Helper()
	var call sync.WaitGroup
	call.Go(func() { s.revoke(k, at, deleted) })
	defer call.Wait()
	return s.elsewhere(at, k, http.StatusUnauthorized)
}

func (s *clusterSite) revoke(k clusterKey, at int, deleted bool) {
	method, body, want := "PATCH", `{"status":"disabled"}`, http.StatusOK
	if deleted {
		method, body, want = "DELETE", "", http.StatusNoContent
	}
	if a := s.gateways[at].manage(method, "/admin/api-keys/"+k.ID, body); a.status != want {
		s.t.Errorf("a key cannot be revoked: %d %s: %v", a.status, a.body, a.err)
	}
}

// elsewhere waits until every gateway but one answers the key with that status, and
// returns how long each took.
func (s *clusterSite) elsewhere(at int, k clusterKey, status int) (took []time.Duration) {
	s.t.Helper()
	var mu sync.Mutex
	var work sync.WaitGroup
	for i, g := range s.gateways {
		if i == at {
			continue
		}
		work.Go(func() {
			d := s.becomes(g, k, status)
			mu.Lock()
			defer mu.Unlock()
			took = append(took, d)
		})
	}
	work.Wait()
	return took
}

// becomes waits until a gateway answers the key with that status, and returns how
// long that took. Before it may give only the other answer, and not again after it; or
// say that it cannot tell, for a time in which it had not Redis.
func (s *clusterSite) becomes(g *clusterGateway, k clusterKey, status int) (took time.Duration) {
	other := http.StatusOK + http.StatusUnauthorized - status
	for began, seen := time.Now(), 0; seen < 5; {
		switch got := g.judges(k); {
		case got == status:
			if seen++; seen == 1 {
				took = time.Since(began)
			}
		case got != other && got != http.StatusServiceUnavailable || seen > 0 || time.Since(began) > patience:
			s.t.Errorf("a key is answered %d after %v and %d times %d", got, time.Since(began), seen, status)
			return time.Since(began)
		}
	}
	return took
}

// TestClusterRevokesForEver: a revocation that Redis does not have any more, or never
// told, is one that nobody remembers.
func TestClusterRevokesForEver(t *testing.T) {
	together(t)
	for name, server := range map[string][]string{"kept": {"--appendonly", "yes"}, "emptied": nil} {
		t.Run(name, func(t *testing.T) { revokedForEver(startCluster(t, clusterPlan{server: server})) })
	}
}

func revokedForEver(s *clusterSite) {
	t := s.t
	t.Helper()
	good, _ := s.spread(0)
	known, _ := s.spread(0)
	s.revoked(known, 0, true)
	s.becomes(s.gateways[0], known, http.StatusUnauthorized)
	latest, _ := s.spread(0)
	s.revoke(latest, 0, true)
	s.redis.Kill() // at once: the others may know it, or not
	refused := func(what string, away bool) {
		t.Helper()
		for i, g := range s.gateways {
			for k, want := range map[clusterKey]int{good: http.StatusOK, known: http.StatusUnauthorized} {
				// Of what is no key, or none any more, it is not known in an outage if it has
				// become one since.
				if got := g.judges(k); got != want && (k != known || !away || got != http.StatusServiceUnavailable) {
					t.Errorf("%s, at gateway %d: %d, want %d", what, i, got, want)
				}
			}
		}
	}
	s.everywhere("llmproxy_redis_up", is(0))
	refused("Redis is away", true)
	s.gateways[1].kill()
	s.gateways[1].run(t)
	refused("Redis is away, and the gateway is started anew", true)
	s.redis.Restart()
	s.everywhere("llmproxy_redis_up", is(1))
	for _, g := range s.gateways {
		s.becomes(g, latest, http.StatusUnauthorized)
	}
	s.gateways[2].kill()
	s.gateways[2].run(t)
	refused("Redis is back", false)
	if a := s.gateways[2].manage("GET", "/admin/api-keys/"+latest.ID, ""); a.status != http.StatusNotFound {
		t.Errorf("a deleted key is there: %d %s", a.status, a.body)
	}
	apptest.Eventually(t, "Redis has all documents", func() bool {
		n, err := s.redis.Command("HLEN", clusterPrefix+"{keys}:keys")
		return err == nil && n == fmt.Sprint(3)
	})
}
