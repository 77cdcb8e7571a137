package app_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// TestScenario3Together is the provider with three gateways, which differ in their
// address and their directory only, as fast as the file says.
func TestScenario3Together(t *testing.T) {
	c := provider()
	inNetwork(t, c.network(), func(t *testing.T) { t.Run("three gateways", c.together) })
}

// another runs one more gateway with the stage's file.
func (s *stage) another(t *testing.T, port int) (url string) {
	t.Helper()
	g := &gatewayProcess{
		file: s.file, addr: fmt.Sprintf("gateway.internal:%d", port), url: fmt.Sprintf("http://gateway.internal:%d", port),
		client: s.client,
	}
	cmd := atGateway(os.Getenv(programVariable), "serve", "-config", s.file)
	cmd.Env = slices.Concat(s.env, []string{fmt.Sprintf("LLMPROXY__LISTEN=:%d", port), "LLMPROXY__DATA_DIR=" + t.TempDir()})
	g.process = startCommand(t, cmd)
	g.says("msg=serving")
	apptest.Eventually(t, "the gateway is ready", func() bool {
		status, _ := g.get("/readyz")
		return status == http.StatusOK
	})
	return g.url
}

// audience is what many customers together have been answered.
type audience struct {
	mu     sync.Mutex
	served []time.Duration // when, since it began
	took   []time.Duration
	other  map[int]int
	first  string // an answer that is neither 200 nor 429
}

func (c *audience) add(at time.Duration, r reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case r.status == http.StatusOK:
		c.served, c.took = append(c.served, at), append(c.took, r.took)
		return
	case r.status != http.StatusTooManyRequests && c.first == "":
		c.first = r.String()
	}
	c.other[r.status]++
}

// together: 120 customers, who may ask ten times a second each, ask through all of
// the gateways by turns for as long as their burst does not matter any more.
func (c *scene) together(t *testing.T) {
	s := c.open(t)
	urls := []string{s.url, s.another(t, 8001), s.another(t, 8002)}
	many, during, every := 120, 4*time.Second, 400*time.Millisecond
	if long {
		during, every = 30*time.Second, 115*time.Millisecond
	}
	names := slices.Sorted(maps.Keys(aliases))
	met := &audience{other: map[int]int{}}
	var all sync.WaitGroup
	people := make([]*person, many)
	for n := range people {
		people[n] = s.customer(t, n, "")
	}
	begin := time.Now()
	for n, p := range people {
		all.Go(func() {
			next := begin.Add(time.Duration(rand.Int64N(int64(every)))) // not all at once
			for i := n; next.Sub(begin) < during; i++ {
				<-time.After(time.Until(next))
				r := p.at(urls[i%len(urls)]).chat(names[i%len(names)], 2)
				met.add(time.Since(begin), r)
				next = next.Add(every)
			}
		})
	}
	all.Wait()
	met.judge(t, during)
	s.balance(t)
}

func (c *audience) judge(t *testing.T, during time.Duration) {
	t.Helper()
	slices.Sort(c.took)
	rate := float64(len(c.served)) / during.Seconds()
	p := func(q float64) time.Duration { return c.took[int(q*float64(len(c.took)-1))] }
	t.Logf("%.0f requests a second were served, p50 %v, p99 %v; others: %v", rate, p(0.5), p(0.99), c.other)
	if c.first != "" {
		t.Errorf("one was answered %s", c.first)
	}
	if refused := c.other[http.StatusTooManyRequests]; refused > len(c.served)/100 {
		t.Errorf("%d were refused within their limits", refused)
	}
	slices.Sort(c.served)
	const global, burst = 1000, 2000
	for i := range c.served { // every window that begins with one
		for _, n := range []int{2500, 5000, 10000} {
			if j := i + n - 1; j < len(c.served) && float64(n) > burst+global*(c.served[j]-c.served[i]).Seconds()+global*maxAnswer.Seconds() {
				t.Fatalf("%d were let in within %v", n, c.served[j]-c.served[i])
			}
		}
	}
	if long && rate < 1000 {
		t.Errorf("%.0f requests a second", rate)
	}
}

// maxAnswer is how long a request takes at most, so that its end tells when it began.
const maxAnswer = 500 * time.Millisecond
