package cluster

import (
	"math/rand/v2"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// One of three masters is killed: the keys that it had are counted by each gateway
// alone until its replica has taken over, and of the others nobody notices.
func TestAThirdOfARedisCluster(t *testing.T) {
	nodes := redistest.StartCluster(t, 3, 1)
	for _, n := range nodes.All() { // or all of them refuse until the replica has taken over
		n.Must("CONFIG", "SET", "cluster-require-full-coverage", "no")
	}
	way := redis.Options{Addrs: nodes.Addrs(), Mode: redis.Cluster}
	a := &player{peer: newPeer(t, "a", way).up(), rnd: rand.New(rand.NewPCG(1, 7))}
	b := &player{peer: newPeer(t, "b", way).up(), rnd: rand.New(rand.NewPCG(2, 7))}
	a.play(100)
	b.play(100)
	direct := newPeer(t, "direct", way, patiently).up()
	agreed(t, direct, []*player{a, b})

	lost := nodes.Master("{" + all.tag() + "}")
	hit, spared := played(0), []want{}
	for key := range byte(playedKeys) {
		if o := played(key); nodes.Master("{"+o.tag()+"}") != lost {
			spared = append(spared, o)
		}
	}
	if len(spared) == 0 {
		t.Fatal("all keys are at one node")
	}
	lost.Kill()
	var spoiled int
	probe := func() (there bool) {
		for _, o := range spared {
			r, w, ok := a.enter(o)
			if !ok {
				spoiled++
			}
			if r == nil {
				t.Fatalf("refused by %v", w.By)
			}
			r.end(0, 0)
		}
		r, _, there := a.enter(hit)
		r.end(0, 0)
		return there
	}
	a.until("a part is away", func() bool { probe(); return a.Status().State == "partly" })
	probes := 0
	a.until("it is back", func() bool { probes++; return probe() })
	a.up()
	b.up()
	t.Logf("of %d requests for other keys meanwhile, %d were not counted in Redis", probes*len(spared), spoiled)
	if spoiled > 5 {
		t.Errorf("%d requests for other keys were not counted in Redis", spoiled)
	}
	agreed(t, direct, []*player{a, b})
	a.play(60)
	b.play(60)
	agreed(t, direct, []*player{a, b})
	a.stop()
	b.stop()
	agreed(t, direct, []*player{a, b})
}

func TestSentinelsChooseAnother(t *testing.T) {
	s := redistest.Start(t)
	s.Replica(t)
	s.Replica(t)
	way := redis.Options{Addrs: redistest.StartSentinels(t, s, 3), Mode: redis.Sentinel, Master: "mymaster"}
	a := &player{peer: newPeer(t, "a", way).up(), rnd: rand.New(rand.NewPCG(1, 7))}
	b := &player{peer: newPeer(t, "b", way).up(), rnd: rand.New(rand.NewPCG(2, 7))}
	direct := newPeer(t, "direct", way, patiently).up()
	a.play(100)
	b.play(100)
	agreed(t, direct, []*player{a, b})
	s.Kill()
	for _, p := range []*player{a, b} {
		p.playUntil(func() bool { return p.Status().State == "away" })
		p.play(20)
	}
	a.up()
	b.up()
	direct.up()
	a.play(60)
	b.play(60)
	agreed(t, direct, []*player{a, b})
	a.stop()
	b.stop()
	agreed(t, direct, []*player{a, b})
}
