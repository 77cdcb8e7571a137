package app_test

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// operatedBy runs a gateway with the given rest of a configuration, over one engine,
// and returns also how it is reloaded.
func operatedBy(t *testing.T, yaml string) (g *apptest.Gateway, reload func(yaml string)) {
	t.Helper()
	e := apptest.StartEngine(t, mockvllm.Options{})
	dir := fmt.Sprintf("health_check: {enabled: false}\ndata_dir: %q\n", t.TempDir())
	g = apptest.Start(t, dir+yaml, e)
	return g, func(yaml string) {
		t.Helper()
		if err := g.Reload(apptest.Config(t, dir+yaml, e)); err != nil {
			t.Fatal(err)
		}
	}
}

// adminStatus is what an operator gets there, 0 where nobody listens.
func adminStatus(addr, path string) int {
	return limitKey{addr, adminToken}.say("GET", path, "").status
}

// Once a reload took admin.listen away the API was on the public port, while the
// log said that this takes a restart.
func TestAReloadMovesNoAdminAPI(t *testing.T) {
	leavesNothing(t)
	own := freeAddr(t)
	here, there := "admin: {token: "+adminToken+"}\n", "admin: {token: "+adminToken+", listen: "+own+"}\n"
	const keys, none, elsewhere = "api_keys: [{key: sk-one}]\n", "", "there is no admin API until a restart"
	for _, w := range []struct {
		name, first, next string
		main, own         int // status after the reload
		warns             string
	}{
		{"its listener is taken away", keys + there, keys + here, 404, 200, "key=admin.listen"},
		{"a listener is given", keys + here, keys + there, 200, 0, "key=admin.listen"},
		{"its token is taken away", keys + there, keys, 404, 404, "key=admin.listen"},
		{"a first token", keys, keys + here, 200, 0, ""},
		{"a first token, and nobody is asked for keys", none, here, 200, 0, ""},
		{"a first token, and a listener", keys, keys + there, 404, 0, elsewhere},
		{"both, and nobody is asked for keys", none, there, 404, 0, elsewhere},
	} {
		t.Run(w.name, func(t *testing.T) {
			g, reload := operatedBy(t, w.first)
			reload(w.next)
			for range 2 { // the second reload changes nothing
				if main, own := adminStatus(g.Addr, "/admin/api-keys"), adminStatus(own, "/admin/api-keys"); main != w.main || own != w.own {
					t.Errorf("the main port answers %d, the other %d; want %d and %d\n%s", main, own, w.main, w.own, g.Logs)
				}
				reload(w.next)
			}
			if said := g.Logs.String(); !strings.Contains(said, w.warns) || w.warns == "" && strings.Contains(said, "restart") {
				t.Errorf("the log does not say %q, or more:\n%s", w.warns, said)
			}
			g.Close()
		})
	}
}

// The first token by a reload gives the whole API: the keys file is opened then.
func TestAFirstTokenByAReloadMakesKeys(t *testing.T) {
	leavesNothing(t)
	g, reload := operatedBy(t, "")
	reload("admin: {token: " + adminToken + "}\n")
	operator := limitKey{g.Addr, adminToken}
	if a := operator.say("POST", "/admin/api-keys", `{"name":"later"}`); a.status != 201 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := operator.say("GET", "/admin/api-keys", ""); a.status != 200 || !strings.Contains(a.body, "later") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if n := g.Metric(`llmproxy_keys{source="file"}`); n != 1 {
		t.Errorf("%v keys of the file are counted", n)
	}
}

// A connection of the admin API went on being served by a gateway that had ended.
func TestTheAdminAPIEndsWithTheGateway(t *testing.T) {
	leavesNothing(t)
	own := freeAddr(t)
	g, _ := operatedBy(t, "admin: {token: "+adminToken+", listen: "+own+"}\nmetrics: {listen: "+freeAddr(t)+"}\n")
	idle := dialRaw(t, own)
	request := limitKey{own, adminToken}.request("GET", "/admin/config", "")
	idle.send(request)
	if resp, _ := idle.answer("GET"); resp.StatusCode != 200 {
		t.Fatalf("%d", resp.StatusCode)
	}
	silent := dialRaw(t, own) // in the middle of a request, for ever
	silent.send(request[:len(request)-10])
	began := time.Now()
	g.Close()
	if d := time.Since(began); d > 8*time.Second {
		t.Errorf("a silent operator holds the shutdown up for %v", d)
	}
	for name, c := range map[string]net.Conn{"idle": idle, "silent": silent} {
		_, _ = c.Write([]byte(request)) // fails where the end is known already
		if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Errorf("the %s connection is served after the end", name)
		}
	}
}
