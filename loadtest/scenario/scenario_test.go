package scenario

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/llmproxy/llmproxy/pkg/config"
)

const root = "../.."

func read(t *testing.T, n int) *Scenario {
	t.Helper()
	s, err := Read(root, n)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// addrs gives every backend of a scenario an address.
func addrs(t *testing.T, s *Scenario) map[string]string {
	t.Helper()
	backends, err := s.Backends()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, b := range backends {
		out[b.Host] = b.Host + ".test:1"
	}
	out["redis"] = "redis.test:1"
	return out
}

func parse(t *testing.T, s *Scenario) *config.Config {
	t.Helper()
	data, err := s.Gateway("127.0.0.1:1", "http://billing.test:1", addrs(t, s))
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse("gateway", data, nil)
	if err != nil {
		t.Fatalf("%v\n%s", err, data)
	}
	return c
}

// A run that turns something off, or has it elsewhere than the deployment, measures
// another one.
func TestRunChangesAddressesOnly(t *testing.T) {
	addresses := regexp.MustCompile(`^listen$|^backends\.\d+\.(url|name)$|^usage_hook\.url$|^routing\.fallback\.\d+\.(primary|fallback\.\d+)$`)
	more := map[int]string{
		2: `^trusted_proxies\.0$`,
		3: `^auth\.redis\.addr$|^api_keys\.\d+\.(key|name)$`, // its keys are made at run time
	}
	for n := 1; n <= 5; n++ {
		s := read(t, n)
		var shipped, run any
		data, err := os.ReadFile(root + "/" + s.Config)
		if err == nil {
			err = yaml.Unmarshal(data, &shipped)
		}
		if err == nil {
			data, err = s.Gateway("127.0.0.1:1", "http://billing.test:1", addrs(t, s))
		}
		if err == nil {
			err = yaml.Unmarshal(data, &run)
		}
		if err != nil {
			t.Fatal(err)
		}
		before, after := leaves("", shipped), leaves("", run)
		allowed := regexp.MustCompile(cmp.Or(more[n], "^$"))
		for _, path := range slices.Concat(slices.Collect(maps.Keys(before)), slices.Collect(maps.Keys(after))) {
			if before[path] != after[path] && !addresses.MatchString(path) && !allowed.MatchString(path) {
				t.Errorf("scenario %d: %s is %q, shipped %q", n, path, after[path], before[path])
			}
		}
		if at := after["auth.redis.addr"]; n == 3 && at != "redis.test:1" {
			t.Errorf("keys and limits are at %q", at)
		}
	}
}

// leaves are the values of a tree by their paths, as in backends.0.url.
func leaves(path string, v any) map[string]string {
	out := map[string]string{}
	add := func(key string, v any) { maps.Copy(out, leaves(strings.TrimPrefix(path+"."+key, "."), v)) }
	switch v := v.(type) {
	case map[string]any:
		for key, v := range v {
			add(key, v)
		}
	case []any:
		for i, v := range v {
			add(strconv.Itoa(i), v)
		}
	default:
		out[path] = fmt.Sprint(v)
	}
	return out
}

// A run is worth nothing if it measures another configuration than the one that
// is shipped.
func TestGatewayKeepsTheScenarioAsItStands(t *testing.T) {
	for n := 1; n <= 5; n++ {
		s := read(t, n)
		shipped, err := config.Load(root+"/"+s.Config, nil)
		if err != nil {
			t.Fatal(err)
		}
		c := parse(t, s)
		for i, b := range c.Backends {
			want := shipped.Backends[i]
			if b.Weight != want.Weight || b.Region != want.Region || !slices.Equal(b.Models, want.Models) || !strings.HasPrefix(want.URL, "http://"+b.Name) {
				t.Errorf("scenario %d: %+v of %+v", n, b, want)
			}
		}
		for i, f := range c.Routing.Fallback {
			if want := len(shipped.Routing.Fallback[i].Next); len(f.Next) != want || !strings.Contains(f.Primary, ".test") {
				t.Errorf("scenario %d: fallback %+v", n, f)
			}
		}
		if hook := shipped.UsageHook; hook.Enabled {
			hook.URL = "http://billing.test:1"
			if c.UsageHook != hook {
				t.Errorf("scenario %d: the hook is %+v, shipped %+v", n, c.UsageHook, hook)
			}
		}
		if c.RateLimit != shipped.RateLimit || c.Auth.Enabled != shipped.Auth.Enabled || !reflect.DeepEqual(c.Auth.Defaults, shipped.Auth.Defaults) {
			t.Errorf("scenario %d: limits or keys are not the shipped ones: %+v %+v", n, c.RateLimit, c.Auth)
		}
		if len(shipped.APIKeys) > 0 && !reflect.DeepEqual(c.APIKeys, shipped.APIKeys) {
			t.Errorf("scenario %d: the keys are %+v", n, c.APIKeys)
		}
		if c.HealthCheck != shipped.HealthCheck || c.Routing.Retry != shipped.Routing.Retry || c.Strategy != shipped.Strategy {
			t.Errorf("scenario %d: health checks, retries or the strategy are not the shipped ones", n)
		}
	}
}

// A load that is refused for its key measures nothing.
func TestLoadHasKeysThatMayAsk(t *testing.T) {
	for n := 1; n <= 5; n++ {
		s := read(t, n)
		c := parse(t, s)
		if !c.Auth.Enabled {
			continue
		}
		keys := map[string]config.APIKey{}
		for _, k := range c.APIKeys {
			keys[string(k.Key)] = k
		}
		plan, err := s.Plan()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range plan {
			k, ok := keys[r.Key]
			if !ok {
				t.Fatalf("scenario %d: nobody has the key %s", n, r.Key)
			}
			if k.AllowedModels != nil && !slices.Contains(k.AllowedModels, r.Model) {
				t.Fatalf("scenario %d: %s may not ask for %s", n, k.Name, r.Model)
			}
			from, _ := netip.ParseAddr(r.From)
			if k.AllowedIPs != nil && !slices.ContainsFunc(k.AllowedIPs, func(p netip.Prefix) bool { return p.Contains(from) }) {
				t.Fatalf("scenario %d: %s may not ask from %q", n, k.Name, r.From)
			}
			if r.From != "" && len(c.TrustedProxies) == 0 {
				t.Fatalf("scenario %d: %s would not be believed", n, r.From)
			}
		}
	}
}

// Both gateways must be asked the same, and runs of other days too.
func TestPlanIsTheSameEachTime(t *testing.T) {
	for n := 1; n <= 5; n++ {
		plans := [2][]Request{}
		for i := range plans {
			s := read(t, n)
			s.Shorten(10 * time.Second)
			var err error
			if plans[i], err = s.Plan(); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.EqualFunc(plans[0], plans[1], func(a, b Request) bool {
			return a.At == b.At && a.Key == b.Key && a.Tokens == b.Tokens && bytes.Equal(a.Body, b.Body)
		}) {
			t.Errorf("scenario %d: two plans differ", n)
		}
		if !slices.IsSortedFunc(plans[0], func(a, b Request) int { return int(a.At - b.At) }) {
			t.Errorf("scenario %d: the plan is not in order", n)
		}
	}
}

// The load is stationary: conversations that began before the run are part of
// it, or its first seconds would be light.
func TestPlanIsAsDenseAsTheLoadSays(t *testing.T) {
	l := Load{
		Who: "w", Seed: 1, PerSecond: 20, Turns: 3, Pause: time.Second,
		Question: Length{Median: 5, Sigma: 0.5, Most: 20}, Answer: Length{Median: 10, Sigma: 0.5, Most: 12},
	}
	s := &Scenario{Lasts: 60 * time.Second, Load: []Load{l}}
	plan, err := s.Plan()
	if err != nil {
		t.Fatal(err)
	}
	early := 0
	for _, r := range plan {
		if r.At < 0 || r.At >= s.Lasts || r.Tokens > 12 {
			t.Fatalf("a request of %d tokens at %v", r.Tokens, r.At)
		}
		if r.At < s.Lasts/2 {
			early++
		}
	}
	if want := 60 * l.PerSecond * l.Turns; math.Abs(float64(len(plan))-want) > want/10 {
		t.Errorf("%d requests, want about %v", len(plan), want)
	}
	if half := len(plan) / 2; early < half*9/10 || early > half*11/10 {
		t.Errorf("%d of %d requests in the first half", early, len(plan))
	}
}

// What engines cache is the beginning that two prompts share.
func TestConversationsShareTheirBeginnings(t *testing.T) {
	l := Load{Seed: 1, PerSecond: 1, Turns: 4, Pause: time.Second, Systems: 1, System: 50, Question: Length{5, 0.1, 9}, Answer: Length{5, 0.1, 9}}
	plan, err := (&Scenario{Lasts: 20 * time.Second, Load: []Load{l}}).Plan()
	if err != nil {
		t.Fatal(err)
	}
	_, system, _ := bytes.Cut(plan[0].Body, []byte(`"role":"system","content":"`))
	system, _, _ = bytes.Cut(system, []byte(`"`))
	if len(system) != 4*50 {
		t.Fatalf("a system prompt of %d bytes", len(system))
	}
	repeated := 0
	for i, r := range plan {
		if !bytes.Contains(r.Body, system) {
			t.Errorf("request %d has another system prompt", i)
		}
		if bytes.Contains(r.Body, []byte(`"assistant"`)) {
			repeated++
		}
	}
	if repeated < len(plan)/3 {
		t.Errorf("%d of %d requests are later turns", repeated, len(plan))
	}
}

func TestPoolFollowsMappingAndPatterns(t *testing.T) {
	s := read(t, 3)
	for model, want := range map[string]int{"llama-3-70b": 4, "llama-3-8b": 2, "mistral": 2, "qwen": 4} {
		hosts, err := s.Pool(model)
		if err != nil || len(hosts) != want {
			t.Errorf("%s: %q, %v; want %d", model, hosts, err, want)
		}
	}
	if hosts, err := s.Pool("gpt"); err == nil {
		t.Errorf("nobody serves gpt, but %q do", hosts)
	}
}

func TestCheckFindsNamesThatMeanNothing(t *testing.T) {
	for name, spoil := range map[string]func(*Scenario){
		"no such measure": func(s *Scenario) { s.Claims[0].Measure = "speed" },
		"no such load":    func(s *Scenario) { s.Claims[0].Who = "nobody" },
		"no such engine":  func(s *Scenario) { s.Events[0].On = []string{"gpu-9"} },
		"no such action":  func(s *Scenario) { s.Events[0].Do = "explode" },
	} {
		t.Run(name, func(t *testing.T) {
			s := read(t, 1)
			spoil(s)
			if err := s.check(); err == nil {
				t.Error("it passes")
			}
		})
	}
}

// A short run has every event in it, and health checks quick enough to matter.
func TestShortRunHasTheWholeScript(t *testing.T) {
	s := read(t, 5)
	s.Shorten(7 * time.Second)
	for _, e := range s.Events {
		if e.At >= s.Lasts {
			t.Errorf("%s at %v of %v", e.Name, e.At, s.Lasts)
		}
	}
	if h := parse(t, s).HealthCheck; time.Duration(h.Interval) > time.Second {
		t.Errorf("health checks every %v", time.Duration(h.Interval))
	}
	if len(s.Changed()) > 0 {
		t.Errorf("the table would call %q changed", s.Changed())
	}
}
