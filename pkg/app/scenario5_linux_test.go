package app_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

const (
	beijing   = "beijing.edge:8000"
	shanghai  = "shanghai.edge:8000"
	guangzhou = "guangzhou.edge:8000"
	shenzhen  = "shenzhen.edge:8000"
	chengdu   = "chengdu.edge:8000"
	edgeModel = "qwen-14b"
)

// edge is scenario 5. A token comes from Chengdu at once; the other cities are so
// far away.
func edge(away time.Duration) *scene {
	far := mockvllm.Options{Models: []string{edgeModel}, PrefillDelay: away}
	near := mockvllm.Options{Models: []string{edgeModel}}
	return &scene{
		file:    "scenario5.yaml",
		engines: map[string]mockvllm.Options{beijing: far, shanghai: far, guangzhou: far, shenzhen: far, chengdu: near},
		clients: []string{"10.5.0.0/16"},
	}
}

// TestScenario5 is the edge: one engine in each city. Its file names five of the
// ten.
func TestScenario5(t *testing.T) { edge(0).play(t, edgeSentences) }

var edgeSentences = []sentence{
	{"10 个城市，每个城市 1 台 GPU 服务器", edgeCities},
	{"后端配置（多地域）", edgeRegions},
	{"需要就近路由（降低延迟）, 负载均衡策略: 延迟优先", edgeNearest},
	{"智能路由（就近访问）", edgeMoves},
	{"需要跨地域故障转移", edgeCityLost},
	{"故障转移（跨地域）", edgeFallback},
	{"重试配置", edgeRetry},
	{"需要统一管理", edgeManaged},
}

// edgeCities: every city of the file serves, and nobody is asked for a key.
func edgeCities(t *testing.T) {
	s := edge(0).open(t)
	for _, r := range atOnce(10, func(i int) reply { return s.from(fmt.Sprintf("10.5.0.%d", i+1)).chat(edgeModel, 2) }) {
		r.served(t, "a user")
	}
	s.from("").with("whatever").chat(edgeModel, 2).served(t, "a user who sends a key")
	for addr, n := range s.shares() {
		if n == 0 {
			t.Errorf("%s serves nobody", addr)
		}
	}
}

// edgeRegions: a gateway that is told where it stands prefers its own region.
func edgeRegions(t *testing.T) {
	for region, city := range map[string]string{"north": beijing, "east": shanghai, "west": chengdu} {
		t.Run(region, func(t *testing.T) {
			s := edge(0).open(t, "LLMPROXY__REGION="+region)
			p := s.from("10.5.0.100")
			for range 10 {
				p.chat(edgeModel, 2).served(t, "a user in the "+region)
			}
			if n := s.shares()[city]; n != 10 {
				t.Errorf("%s had %d of 10 requests: %v", city, n, s.shares())
			}
		})
	}
}

// edgeNearest: 延迟优先. The city with the least latency has most of the requests.
func edgeNearest(t *testing.T) {
	s := edge(80 * time.Millisecond).open(t)
	p := s.from("10.5.1.1")
	for range 2 * len(s.engines) { // until each is known
		if _, err := p.firstToken(edgeModel); err != nil {
			t.Fatal(err)
		}
	}
	before := s.shares()[chengdu]
	const streams = 40
	for range streams {
		took, err := p.firstToken(edgeModel)
		if err != nil || took > time.Second {
			t.Fatalf("the first token came after %v: %v", took, err)
		}
	}
	if n := s.shares()[chengdu] - before; n < streams*9/10 {
		t.Errorf("the nearest city had %d of %d streams: %v", n, streams, s.shares())
	}
}

// edgeMoves: when the nearest city slows down, others take over.
func edgeMoves(t *testing.T) {
	s := edge(40 * time.Millisecond).open(t)
	p := s.from("10.5.1.2")
	stream := func() {
		if _, err := p.firstToken(edgeModel); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 * len(s.engines) {
		stream()
	}
	s.fail(t, chengdu, "slow-first-token=400ms", 0)
	before := s.shares()[chengdu]
	for range 20 {
		stream()
	}
	if n := s.shares()[chengdu] - before; n > 2 {
		t.Errorf("the city that has become slow had %d of 20 streams", n)
	}
}

// edgeCityLost: users whose city is lost while it works for them do not see it, nor
// when a second one is.
func edgeCityLost(t *testing.T) {
	c := edge(300 * time.Millisecond)
	c.engines[chengdu] = c.engines[beijing]
	s := c.open(t)
	for _, city := range []string{chengdu, shanghai} {
		const users = 40
		done := make(chan []reply, 1)
		go func() {
			done <- atOnce(users, func(i int) reply { return s.from(fmt.Sprintf("10.5.2.%d", i+1)).chat(edgeModel, 2) })
		}()
		apptest.Eventually(t, "all requests are in the cities", func() bool { return s.running() == users })
		s.engines[city].Close()
		for _, r := range <-done {
			r.served(t, "a user when "+city+" is lost")
		}
		if n := s.shares()[city]; n == 0 {
			t.Errorf("%s had no requests: nothing is shown", city)
		}
	}
	for _, r := range atOnce(20, func(i int) reply { return s.from(fmt.Sprintf("10.5.2.%d", i+1)).chat(edgeModel, 2) }) {
		r.served(t, "a user without the two")
	}
}

// edgeFallback: the cities that take over from Beijing and from Shanghai, in
// their order.
func edgeFallback(t *testing.T) {
	user := func(s *stage) *person { return s.from("10.5.3.1") }
	edge(0).failover(t, user, edgeModel, 5, beijing, shanghai, guangzhou)
	edge(0).failover(t, user, edgeModel, 5, shanghai, beijing, shenzhen)
}

// edgeRetry: two more attempts at most, elsewhere at once; 500 ms, less up to a
// half by chance, before a city that failed is asked again.
func edgeRetry(t *testing.T) {
	t.Run("max_retries", func(t *testing.T) {
		s := edge(0).open(t)
		for addr := range s.engines {
			s.fail(t, addr, "500-empty", 0)
		}
		r := s.from("").chat(edgeModel, 2)
		met := s.attempts()[r.header.Get("X-Request-Id")]
		slices.Sort(met)
		if r.status != http.StatusInternalServerError || len(met) != 3 || len(slices.Compact(met)) != 3 || r.took > time.Second {
			t.Errorf("%v after attempts at %v, want three cities in less than 1 s", r, met)
		}
	})
	t.Run("initial_wait", func(t *testing.T) {
		s := edge(0).open(t)
		for addr, e := range s.engines {
			if addr != beijing {
				e.Close()
			}
		}
		for addr := range s.engines { // which only the health checks find out
			if addr != beijing {
				s.until(fmt.Sprintf("llmproxy_backend_healthy{backend=%q}", addr), is(0))
			}
		}
		s.fail(t, beijing, "500-empty", 1)
		r := s.from("").chat(edgeModel, 2)
		met := s.attempts()[r.header.Get("X-Request-Id")]
		if r.status != http.StatusOK || !slices.Equal(met, []string{beijing, beijing}) || r.took < 250*time.Millisecond || r.took > 3*time.Second {
			t.Errorf("%v after attempts at %v, want two at %s, 250 to 500 ms apart", r, met, beijing)
		}
	})
}

// edgeManaged: one place says how all cities do and what they serve, and one file
// changes it.
func edgeManaged(t *testing.T) {
	s := edge(0).open(t)
	p := s.from("10.5.4.1")
	page := p.get("/metrics").body
	for addr := range s.engines {
		if !strings.Contains(page, fmt.Sprintf("llmproxy_backend_healthy{backend=%q} 1\n", addr)) {
			t.Errorf("nothing is known of %s", addr)
		}
	}
	if r := p.get("/v1/models"); r.status != http.StatusOK || !strings.Contains(r.body, `"`+edgeModel+`"`) {
		t.Errorf("the models: %v", r)
	}
	// 统一管理: a city is taken out of service for all users at once.
	drain := fmt.Sprintf("  - url: \"http://%s\"\n    drain: true", chengdu)
	s.edit(t, fmt.Sprintf("  - url: \"http://%s\"", chengdu), drain)
	before := s.shares()[chengdu]
	for range 20 {
		p.chat(edgeModel, 1).served(t, "a city is drained")
	}
	if n := s.shares()[chengdu] - before; n != 0 {
		t.Errorf("the drained city had %d requests", n)
	}
}
