package app_test

import (
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// clusterFault is what happens to Redis under load.
type clusterFault struct {
	server     []string // arguments of redis-server
	begin, end func(s *clusterSite)
	over       float64 // units of clusterHot that may be let in too much
	unseen     bool    // no gateway has to go without Redis
}

// clusterHot is how many requests a second, and at once, a key may that asks for
// more all the time. clusterShare is what each gateway may let in by itself.
const (
	clusterHot   = 60
	clusterShare = clusterHot / clusterSize
)

// TestClusterRedisKilled: a gateway that waits for a connection does so in every
// request; one that goes on without may count twice when Redis is there again.
func TestClusterRedisKilled(t *testing.T) {
	clusterFault{
		server: []string{"--appendonly", "yes"},
		begin:  func(s *clusterSite) { s.redis.Kill() },
		end:    func(s *clusterSite) { s.redis.Restart() },
		over:   clusterShare,
	}.strikes(t)
}

// TestClusterRedisStopped: a server that does not answer keeps its connections, and
// what is sent to it meanwhile it does later.
func TestClusterRedisStopped(t *testing.T) {
	clusterFault{
		begin: func(s *clusterSite) { s.redis.Stop() },
		end:   func(s *clusterSite) { s.redis.Continue() },
		over:  clusterShare,
	}.strikes(t)
}

// TestClusterRedisFlushed: what was not there any more was taken for what had never
// been, keys and quotas too.
func TestClusterRedisFlushed(t *testing.T) {
	clusterFault{
		begin:  func(s *clusterSite) { s.redis.Must("FLUSHALL") },
		end:    func(*clusterSite) {},
		over:   clusterHot,
		unseen: true,
	}.strikes(t)
}

// TestClusterRedisEmptied: the server comes back with nothing.
func TestClusterRedisEmptied(t *testing.T) {
	clusterFault{
		begin: func(s *clusterSite) { s.redis.Kill() },
		end:   func(s *clusterSite) { s.redis.Restart() },
		over:  clusterHot,
	}.strikes(t)
}

// TestClusterRedisSlow: answers that come too late, but come.
func TestClusterRedisSlow(t *testing.T) {
	clusterFault{
		begin: func(s *clusterSite) { s.wire.SetDelay(100 * time.Millisecond) },
		end:   func(s *clusterSite) { s.wire.SetDelay(0) },
		over:  clusterShare,
	}.strikes(t)
}

// TestClusterRedisCut: the network goes, and Redis has everything.
func TestClusterRedisCut(t *testing.T) {
	clusterFault{
		begin: func(s *clusterSite) { s.wire.Cut() },
		end:   func(s *clusterSite) { s.wire.Mend() },
		over:  clusterShare,
	}.strikes(t)
}

// TestClusterRedisFailsOver: a replica that takes the place of the master has not
// all that the master had said it had.
func TestClusterRedisFailsOver(t *testing.T) {
	var heir *redistest.Server
	var between *redistest.Proxy
	clusterFault{
		begin: func(s *clusterSite) {
			between = redistest.NewProxy(s.t, s.redis.Addr())
			host, port, _ := net.SplitHostPort(between.Addr())
			heir = s.redis.Replica(s.t, "--replicaof", host, port)
			between.SetDelay(500 * time.Millisecond)
			<-time.After(time.Second) // so much lags by now
			s.redis.Kill()
			between.Cut()
		},
		end: func(s *clusterSite) {
			heir.Must("REPLICAOF", "NO", "ONE")
			s.wire.Move(heir.Addr())
			s.redis = heir
		},
		over: clusterShare,
	}.strikes(t)
}

// clusterAlone counts the requests that a gateway has decided without Redis.
const clusterAlone = "llmproxy_decided_alone_total"

// strikes wants no request to fail for it; no other to wait for long, nor for longer
// than a second; a limit to be exceeded by no more than it says; and quotas to be
// exact at the end.
func (f clusterFault) strikes(t *testing.T) {
	t.Helper()
	together(t)
	f.strike(startCluster(t, clusterPlan{server: f.server}))
}

// clusterRun is what became of two loads during a fault. The times are the loads'.
type clusterRun struct {
	struck, back, up, ended time.Duration
	calls, hot              []clusterCall
	lag                     *clusterLag
	late                    float64 // decided without Redis for want of a processor
}

func (f clusterFault) strike(s *clusterSite) {
	t := s.t
	t.Helper()
	steady := s.create(`,"requests_per_second":100000,"max_concurrent":100,"total_quota":1000000000,"quota_reset_period":"never"`)
	s.hot = s.create(`,"requests_per_second":` + itoa(clusterHot))
	r := f.run(s, steady)
	settled := s.audit(steady, "steady")
	t.Logf("Redis is up again after %v, the books agree after %v", r.up-r.back, settled)
	for _, c := range r.calls {
		if c.status != http.StatusOK || c.err != nil {
			t.Fatalf("a request failed at %v (Redis was away from %v to %v): gateway %d, %d %s: %v", c.began, r.struck, r.back, c.gateway, c.status, c.body, c.err)
		}
	}
	for _, w := range []clusterStretch{
		{"in the first second", r.struck, r.struck + time.Second, 25 * time.Millisecond},
		{"then", r.struck + time.Second, r.back, time.Millisecond},
		{"after", r.back, r.ended, 25 * time.Millisecond},
	} {
		w.judge(t, r.calls, r.lag, clusterStretch{"before", 100 * time.Millisecond, r.struck, 0})
	}
	in := admitted(t, r.hot)
	burst := burstOf(in, clusterHot, oneEach)
	t.Logf("%d requests of a key with %d/s, %d let in (%.1f %%), in bursts of %.1f; %v were decided without Redis for want of a processor",
		len(r.hot), clusterHot, len(in), 100*float64(len(in))/(clusterHot*(1+r.ended.Seconds())), burst, r.late)
	if most := clusterHot + f.over + r.late; burst > most {
		t.Errorf("a burst of %.1f, want at most %v", burst, most)
	}
}

// run has the fault happen under a load of the key, and one of the hot key.
func (f clusterFault) run(s *clusterSite, steady clusterKey) (r clusterRun) {
	t := s.t
	t.Helper()
	r.lag = startLag(t)
	hot := s.hammer(s.hot, clusterChat("hot", 1), 6, 20*time.Millisecond)
	load := s.hammer(steady, clusterChat("steady", 3), 4, 20*time.Millisecond)
	load.runs(max(1500*time.Millisecond, clusterTime()/5))
	before := s.sum(clusterAlone)
	r.struck = load.so()
	f.begin(s)
	load.runs(clusterTime() - (load.so() - r.struck))
	f.end(s)
	r.back = load.so()
	if !f.unseen && s.sum(clusterAlone) == before {
		t.Error("no gateway has noticed anything")
	}
	s.everywhere("llmproxy_redis_up", is(1))
	r.up = load.so()
	away := s.sum(clusterAlone) - before
	load.runs(2 * time.Second)
	r.ended = load.so()
	r.calls, r.hot = load.stop(), hot.stop()
	r.lag.stop()
	if r.late = s.sum(clusterAlone); !f.unseen {
		r.late -= away
	}
	return r
}
