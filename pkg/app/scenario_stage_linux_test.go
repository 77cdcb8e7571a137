package app_test

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// scene is what a scenario has around the gateway.
type scene struct {
	file    string                      // beside those of the scenarios, as they are written
	engines map[string]mockvllm.Options // by host:port, which is also the backend's name
	books   string                      // URL that the usage is reported to
	clients []string                    // networks that clients are in
	redis   string                      // host:port of the Redis that gateways share
	env     []string                    // what the file cannot have as it stands
}

// network has every name of the file.
func (c *scene) network() network {
	var hosts []string
	for addr := range c.engines {
		host, _, _ := strings.Cut(addr, ":")
		hosts = append(hosts, host)
	}
	if c.books != "" {
		hosts = append(hosts, hostOf(c.books))
	}
	if c.redis != "" {
		hosts = append(hosts, hostOf("redis://"+c.redis))
	}
	slices.Sort(hosts)
	return network{hosts: hosts, clients: c.clients}
}

// sentence is a test of one sentence of a scenario, or of one of the comments in its
// file, which it is named after.
type sentence struct {
	name string
	play func(t *testing.T)
}

// play runs the sentences of a scenario in its network.
func (c *scene) play(t *testing.T, sentences []sentence) {
	t.Helper()
	inNetwork(t, c.network(), func(t *testing.T) {
		for _, p := range sentences {
			t.Run(p.name, p.play)
		}
	})
}

// stage is a scenario's gateway at work. Each test has one of its own, so that
// none has used up what another may use.
type stage struct {
	*gatewayProcess
	t       *testing.T
	engines map[string]*apptest.Engine // by host:port
	books   *books
	env     []string
	zone    *time.Location // the gateway's
	held    int            // answers that are kept open
}

// open starts the engines, the receiver of the usage and the gateway, with the
// scenario's file as it stands.
func (c *scene) open(t *testing.T, env ...string) *stage {
	t.Helper()
	s := &stage{t: t, engines: map[string]*apptest.Engine{}}
	for addr, o := range c.engines {
		at := &apptest.Engine{Addr: addr}
		s.engines[addr] = at.Restart(t, o)
	}
	if c.books != "" {
		s.books = openBooks(t, c.books)
	}
	if c.redis != "" {
		openStore(t, c.redis)
	}
	text, err := os.ReadFile("../config/testdata/" + c.file)
	if err != nil {
		t.Fatal(err)
	}
	name := noonZone(time.Now())
	if s.zone, err = time.LoadLocation(name); err != nil {
		t.Fatal(err)
	}
	s.env = slices.Concat(os.Environ(), []string{"TZ=" + name}, c.env, env)
	s.gatewayProcess = &gatewayProcess{
		file: filepath.Join(t.TempDir(), "config.yaml"), addr: "gateway.internal:8000", url: "http://gateway.internal:8000",
		client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience},
	}
	writeFile(t, s.file, string(text))
	s.begin(t)
	return s
}

// openStore runs a Redis at host:port.
func openStore(t *testing.T, at string) {
	t.Helper()
	addr, err := net.ResolveTCPAddr("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	program, err := exec.LookPath("redis-server")
	if err != nil {
		skipUnlessRequired(t, "no redis-server: apt-get install redis-server")
	}
	p := startProcess(t, program, "--bind", addr.IP.String(), "--port", strconv.Itoa(addr.Port), "--protected-mode", "no",
		"--dir", t.TempDir(), "--save", "", "--appendonly", "yes")
	p.says("Ready to accept connections")
}

// noonZone is a time zone where it is about noon, so that no day, week or month
// ends in the middle of a test.
func noonZone(now time.Time) string {
	ahead := 12 - now.UTC().Hour() // hours east of Greenwich, which these names call minus
	return fmt.Sprintf("Etc/GMT%+d", -ahead)
}

// begin runs the gateway, anew after it has ended.
func (s *stage) begin(t *testing.T) {
	t.Helper()
	cmd := atGateway(os.Getenv(programVariable), "serve", "-config", s.file)
	cmd.Env = s.env
	s.process = startCommand(t, cmd)
	s.says("msg=serving")
	apptest.Eventually(t, "the gateway is ready", func() bool {
		status, _ := s.get("/readyz")
		return status == http.StatusOK
	})
}

// rows are the requests that an engine had, health checks and the like aside.
func (s *stage) rows(addr string) (rows []mockvllm.Entry) {
	for _, r := range s.engines[addr].Ledger() {
		if r.Method == http.MethodPost {
			rows = append(rows, r)
		}
	}
	return rows
}

// shares is how many requests each engine had.
func (s *stage) shares() map[string]int {
	shares := map[string]int{}
	for addr := range s.engines {
		shares[addr] = len(s.rows(addr))
	}
	return shares
}

// attempts are the engines that each request went to, in their order, by the
// gateway's id of the request.
func (s *stage) attempts() map[string][]string {
	type attempt struct {
		at   time.Time
		addr string
	}
	all := map[string][]attempt{}
	for addr := range s.engines {
		for _, r := range s.rows(addr) {
			id, _, _ := strings.Cut(r.XRequestID, "-")
			all[id] = append(all[id], attempt{r.Arrived, addr})
		}
	}
	orders := map[string][]string{}
	for id, list := range all {
		slices.SortFunc(list, func(a, b attempt) int { return a.at.Compare(b.at) })
		for _, a := range list {
			orders[id] = append(orders[id], a.addr)
		}
	}
	return orders
}

// fail makes count chats that come to an engine fail in that way; 0: all.
func (s *stage) fail(t *testing.T, addr, fault string, count int) {
	t.Helper()
	if err := s.engines[addr].Fault(mockvllm.FaultRule{Fault: fault, Count: count, Path: chatPath}); err != nil {
		t.Fatal(err)
	}
}

// running is how many requests the engines work on.
func (s *stage) running() (n int) {
	for _, e := range s.engines {
		running, waiting, _ := e.Load()
		n += running + waiting
	}
	return n
}

// failover has the first of the engines fail, then the first two, and so on, and
// wants a request that begins at the first to go on in the order given. pool is how
// many engines take turns for the model.
func (c *scene) failover(t *testing.T, who func(s *stage) *person, model string, pool int, order ...string) {
	t.Helper()
	for failing := 1; failing < len(order); failing++ {
		t.Run(fmt.Sprintf("%s, %d lost", order[0], failing), func(t *testing.T) {
			s := c.open(t)
			p := who(s)
			ask := func() []string {
				r := p.chat(model, 2)
				if r.status != http.StatusOK {
					t.Fatalf("the client sees it: %v", r)
				}
				return s.attempts()[r.header.Get("X-Request-Id")]
			}
			apptest.Eventually(t, "a request goes to "+order[0], func() bool { return ask()[0] == order[0] })
			for range pool - 1 { // after which it is its turn again
				ask()
			}
			for _, addr := range order[:failing] {
				s.fail(t, addr, "500-empty", 0)
			}
			if met, want := ask(), order[:failing+1]; !slices.Equal(met, want) {
				t.Errorf("a request went to %v, want %v", met, want)
			}
		})
	}
}

// balance waits until everything that an engine has answered is in the books, and
// compares; it returns the tokens of each user.
func (s *stage) balance(t *testing.T) map[string]int {
	t.Helper()
	last := map[string]mockvllm.Entry{}
	apptest.Eventually(t, "the engines are idle", func() bool {
		clear(last)
		for addr := range s.engines {
			for _, r := range s.rows(addr) {
				if !r.Ended() {
					return false
				}
				id, _, _ := strings.Cut(r.XRequestID, "-")
				if r.Arrived.After(last[id].Arrived) {
					last[id] = r
				}
			}
		}
		return true
	})
	growsTo(t, "requests in the books", len(last), s.books.count)
	users := map[string]int{}
	entries := s.books.all()
	for id, e := range entries {
		row, ok := last[id]
		users[e.Data.UserID] += e.Data.Total
		if !ok || e.Data.Prompt+e.Data.Completion != e.Data.Total {
			t.Errorf("%+v: the engine has %+v", e, row)
		}
		if row.State != mockvllm.StateDone || row.Status != http.StatusOK {
			continue
		}
		if e.Data.Completion != row.Tokens || e.Data.Prompt != row.PromptTokens && !e.Data.Estimated {
			t.Errorf("%+v: the engine counts %d and %d tokens", e, row.PromptTokens, row.Tokens)
		}
	}
	if len(entries) == 0 || len(entries) != len(last) {
		t.Errorf("%d requests in the books, %d at the engines", len(entries), len(last))
	}
	return users
}

// equally wants the engines to have had the same number of requests.
func equally(t *testing.T, shares map[string]int, each, off int) {
	t.Helper()
	for _, addr := range slices.Sorted(maps.Keys(shares)) {
		if n := shares[addr]; n < each-off || n > each+off {
			t.Errorf("%s had %d requests, want %d: %v", addr, n, each, shares)
		}
	}
}

// edit changes the gateway's file and waits until it has been read.
func (s *stage) edit(t *testing.T, old, other string) {
	t.Helper()
	text, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), old); n != 1 {
		t.Fatalf("the file has %q %d times, want once", old, n)
	}
	seen := strings.Count(s.output.String(), "configuration reloaded")
	writeFile(t, s.file, strings.Replace(string(text), old, other, 1))
	apptest.Eventually(t, "the file is read anew", func() bool {
		return strings.Count(s.output.String(), "configuration reloaded") > seen
	})
}
