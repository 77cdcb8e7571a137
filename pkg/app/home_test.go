package app_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// notKept is what an engine says of a response that it did not make.
var notKept = whole(404, "application/json", `{"error":{"message":"Response with id 'x' not found.","type":"invalid_request_error","param":"response_id","code":404}}`)

// shelf is an engine that has the responses whose id begins with its name.
type shelf struct {
	url   string
	asked atomic.Int64
}

// startShelf runs an engine that answers with what create makes of a new id.
func startShelf(t *testing.T, name string, create func(id string) string) *shelf {
	t.Helper()
	k := &shelf{}
	k.url = rawEngine(t, func(req *http.Request, c net.Conn) {
		n := k.asked.Add(1)
		switch {
		case req.Method == "POST":
			say(c, create(fmt.Sprintf("resp_%s%d", name, n)))
		case strings.Contains(req.URL.Path, "/resp_"+name):
			say(c, whole(200, "application/json", "{}"))
		default:
			say(c, notKept)
		}
	})
	return k
}

// response is a new one that is nothing but its id.
func response(id string) string { return whole(200, "application/json", `{"id":"`+id+`"}`) }

// startTwo runs a gateway over an engine for the model m0 and one for m1.
func startTwo(t *testing.T, shelves [2]*shelf) *apptest.Gateway {
	t.Helper()
	yaml := unretried + "backends:\n"
	for i, k := range shelves {
		yaml += fmt.Sprintf("  - {url: %q, name: e%d, models: [m%d]}\n", k.url, i, i)
	}
	return apptest.Start(t, yaml)
}

// createAt makes a response with that model and returns its id.
func createAt(t *testing.T, g *apptest.Gateway, model string) (id string) {
	t.Helper()
	status, answer := g.Post(t, responsesURL, `{"model":"`+model+`","input":"hi"}`)
	if id = between(answer, `"id":"`, `"`); status != 200 || id == "" {
		t.Fatalf("%d %.300s", status, answer)
	}
	return id
}

// get asks the gateway for a page.
func get(t *testing.T, g *apptest.Gateway, path string) (status int, body string) {
	t.Helper()
	c := dialRaw(t, g.Addr)
	defer c.Close()
	c.send("GET " + path + " HTTP/1.1\r\nHost: gateway\r\n\r\n")
	resp, body := c.answer("GET")
	return resp.StatusCode, body
}

// TestEjectedBackendServesItsResponses: an engine that failed in a row gets
// nothing that another could answer; what it keeps, only it can.
func TestEjectedBackendServesItsResponses(t *testing.T) {
	leavesNothing(t)
	for _, engines := range []int{1, 3} {
		t.Run(itoa(engines)+" engines", func(t *testing.T) {
			h := startHomes(t)
			h.engines = h.engines[:engines]
			h.Gateway = apptest.Start(t, h.yaml("")+"routing: {retry: {enabled: false}}\n")
			id, home := h.create("")
			fail(t, h.engines[home[0]-'0'], "503")
			ejected := `llmproxy_backend_ejected{backend="e` + home + `"}`
			apptest.Eventually(t, "its home is ejected", func() bool {
				h.Post(t, chatPath, wholeChat)
				return h.Metric(ejected) == 1
			})
			h.follow(id, home)
			if h.Metric(ejected) != 1 {
				t.Error("it is not ejected any more: nothing is shown")
			}
			quiet(t, h.Gateway)
		})
	}
}

// TestLostHome: only an engine that refuses connections has lost its responses.
// When the gateway itself cannot connect, or nobody answers, the client may come
// back for them.
func TestLostHome(t *testing.T) {
	leavesNothing(t)
	for _, w := range []struct {
		errno  syscall.Errno
		status int
		code   string
	}{
		{syscall.ECONNREFUSED, 404, "previous_response_not_found"},
		{syscall.EMFILE, 503, "service_unavailable"},
		{syscall.ENFILE, 503, "service_unavailable"},
		{syscall.EADDRNOTAVAIL, 503, "service_unavailable"},
		{syscall.EHOSTUNREACH, 502, "bad_gateway"},
		{syscall.ETIMEDOUT, 502, "bad_gateway"},
	} {
		t.Run(w.errno.Error(), func(t *testing.T) {
			var failing atomic.Bool
			dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
				if failing.Load() {
					return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", w.errno)}
				}
				return (&net.Dialer{}).DialContext(ctx, network, addr)
			}
			k := startShelf(t, "a", response)
			g := apptest.StartWith(t, app.Options{Dial: dial}, "backends: [{url: "+k.url+", name: e0}]\nhealth_check: {enabled: false}\n")
			id := createAt(t, g, "m")
			failing.Store(true)
			for name, ask := range map[string]func() (int, string){
				"get":                  func() (int, string) { return get(t, g, responsesURL+"/"+id) },
				"previous_response_id": func() (int, string) { return g.Post(t, responsesURL, `{"previous_response_id":"`+id+`","model":"m"}`) },
			} {
				if status, answer := ask(); status != w.status || !strings.Contains(answer, w.code) {
					t.Errorf("%s: %d %s, want %d %s", name, status, answer, w.status, w.code)
				}
			}
			failing.Store(false)
			if status, answer := get(t, g, responsesURL+"/"+id); status != 200 {
				t.Errorf("once it can be reached: %d %s", status, answer)
			}
			quiet(t, g)
		})
	}
}

// TestHomeOutsideTheModelsPool: a response of another model does not lead a
// request to a backend that has not the model it names.
func TestHomeOutsideTheModelsPool(t *testing.T) {
	leavesNothing(t)
	a, b := startShelf(t, "a", response), startShelf(t, "b", response)
	g := startTwo(t, [2]*shelf{a, b})
	id := createAt(t, g, "m0")
	status, answer := g.Post(t, responsesURL, `{"model":"m1","input":"and?","previous_response_id":"`+id+`"}`)
	if status != 404 || !strings.Contains(answer, `"code":"previous_response_not_found"`) || a.asked.Load() != 1 || b.asked.Load() != 0 {
		t.Errorf("%d %s; the engines were asked %d and %d times, want 1 and 0", status, answer, a.asked.Load(), b.asked.Load())
	}
	if status, answer := g.Post(t, responsesURL, `{"model":"m0","input":"and?","previous_response_id":"`+id+`"}`); status != 200 || a.asked.Load() != 2 {
		t.Errorf("with its own model: %d %s", status, answer)
	}
	quiet(t, g)
}

// occupy keeps an engine busy with a request that never ends; others are asked
// before it is that engine's turn.
func (h *homes) occupy(engine string) *rawClient {
	h.t.Helper()
	for range h.engines {
		before, c := h.asked(), dialRaw(h.t, h.Addr)
		c.send(post(chatPath, wholeChat[:len(wholeChat)-1]+`,"mock_prefill_ms":3600000}`))
		apptest.Eventually(h.t, "an engine has it", func() bool { return h.asked() != before })
		if i := engine[0] - '0'; h.asked()[i] > before[i] {
			return c
		}
		c.Close()
		quiet(h.t, h.Gateway)
	}
	h.t.Fatalf("it was never the turn of engine %s", engine)
	return nil
}

// TestSearchPassesAFullBackend: the one that could not be asked may have the
// response, so that the client is to come back and not to give up.
func TestSearchPassesAFullBackend(t *testing.T) {
	leavesNothing(t)
	h := startHomes(t)
	id, home := h.create("")
	full := h.engines[home[0]-'0']
	yaml := strings.Replace(h.yaml(""), "name: e"+home, "name: e"+home+", max_in_flight: 1", 1)
	for _, f := range followUps[:3] {
		t.Run(f.name, func(t *testing.T) {
			h.t, h.Gateway = t, apptest.Start(t, yaml)
			busy := h.occupy(home)
			path, body := strings.Replace(f.path, "ID", id, 1), strings.Replace(f.body, "ID", id, 1)
			status, answer, asked := h.ask(f.method, responsesURL+path, body)
			if status != 429 || errorShape(answer) != "OpenAI" || len(asked) != 2 || strings.Contains(asked, home) {
				t.Errorf("%d %s from %q, want 429 from the two that are not %s", status, answer, asked, home)
			}
			busy.Close()
			apptest.Eventually(t, "it has room", func() bool { running, waiting, _ := full.Load(); return running+waiting == 0 })
			apptest.Eventually(t, "the gateway knows", func() bool { return h.Metric(`llmproxy_requests_in_flight{backend="e`+home+`"}`) == 0 })
			if status, answer, asked := h.ask(f.method, responsesURL+path, body); status != f.status || !strings.Contains(asked, home) {
				t.Errorf("with room: %d %.300s from %q", status, answer, asked)
			}
			quiet(t, h.Gateway)
		})
	}
}

// TestSearchIsBounded: a response that nobody made costs a few requests, and
// fewer when each carries a body, however many backends there are.
func TestSearchIsBounded(t *testing.T) {
	leavesNothing(t)
	var mu sync.Mutex
	asked := map[string]int{}
	url := rawEngine(t, func(req *http.Request, c net.Conn) {
		mu.Lock()
		asked[strings.Split(req.URL.Path, "/")[1]]++
		mu.Unlock()
		say(c, notKept)
	})
	yaml := unretried + "backends:\n"
	for i := range 40 {
		yaml += fmt.Sprintf("  - {url: %q, name: e%d}\n", url+"/"+itoa(i), i)
	}
	for _, w := range []struct {
		name, method, path, body string
		most                     int
	}{
		{"get", "GET", "/resp_nobodys", "", 32},
		{"delete", "DELETE", "/resp_nobodys", "", 32},
		{"cancel", "POST", "/resp_nobodys/cancel", "", 32},
		{"previous_response_id", "POST", "", `{"model":"m","input":"hi","previous_response_id":"resp_nobodys"}`, 8},
	} {
		t.Run(w.name, func(t *testing.T) {
			g := apptest.Start(t, yaml)
			mu.Lock()
			clear(asked)
			mu.Unlock()
			c := dialRaw(t, g.Addr)
			c.send(strings.Replace(post(responsesURL+w.path, w.body), "POST", w.method, 1))
			resp, answer := c.answer(w.method)
			c.Close()
			quiet(t, g)
			mu.Lock()
			defer mu.Unlock()
			if resp.StatusCode != 404 || len(asked) != w.most {
				t.Errorf("%d %s from %d engines, want %d", resp.StatusCode, answer, len(asked), w.most)
			}
			for name, n := range asked {
				if n != 1 {
					t.Errorf("engine %s was asked %d times", name, n)
				}
			}
		})
	}
}

// TestFirstHomeWins: some engines let clients choose the id of a response. A
// second of the same id, elsewhere, must not take the first one's place.
func TestFirstHomeWins(t *testing.T) {
	leavesNothing(t)
	// Engines of one name make the same ids.
	a, b := startShelf(t, "same", response), startShelf(t, "same", response)
	g := startTwo(t, [2]*shelf{a, b})
	id := createAt(t, g, "m0")
	if again := createAt(t, g, "m1"); again != id {
		t.Fatalf("%s and %s: nothing is shown", id, again)
	}
	for range 3 {
		if status, answer := get(t, g, responsesURL+"/"+id); status != 200 {
			t.Errorf("%d %s", status, answer)
		}
	}
	if a.asked.Load() != 4 || b.asked.Load() != 1 {
		t.Errorf("the engines were asked %d and %d times, want 4 and 1", a.asked.Load(), b.asked.Load())
	}
	quiet(t, g)
}

// TestWholeResponsesAreLearnt: the id is in an answer, however that is framed
// and however long it is.
func TestWholeResponsesAreLearnt(t *testing.T) {
	leavesNothing(t)
	for _, size := range []int{10, 100 << 10} {
		body := func(id string) string {
			return `{"id":"` + id + `","object":"response","output":"` + strings.Repeat("x", size) + `"}`
		}
		for framing, create := range map[string]func(id string) string{
			"length": func(id string) string { return whole(200, "application/json", body(id)) },
			"chunks": func(id string) string {
				return strings.Replace(chunkedHead, "text/event-stream", "application/json", 1) + chunk(body(id)).wire + lastChunk.wire
			},
			"close": func(id string) string { return "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + body(id) },
		} {
			t.Run(fmt.Sprintf("%d bytes/%s", size, framing), func(t *testing.T) {
				shelves := [2]*shelf{startShelf(t, "a", create), startShelf(t, "b", create)}
				g := startTwo(t, shelves)
				const times = 4 // a search finds the right one by chance
				for i := range 2 * times {
					id := createAt(t, g, "m"+itoa(i%2))
					if status, answer := get(t, g, responsesURL+"/"+id); status != 200 {
						t.Errorf("%d %s", status, answer)
					}
				}
				if a, b := shelves[0].asked.Load(), shelves[1].asked.Load(); a != 2*times || b != 2*times {
					t.Errorf("the engines were asked %d and %d times, want %d each: one had to be searched", a, b, 2*times)
				}
				quiet(t, g)
			})
		}
	}
}

// TestLongModelIsNotKept: a client chooses the model's name, and the gateway
// must not keep much of its choosing for every response.
func TestLongModelIsNotKept(t *testing.T) {
	leavesNothing(t)
	const times, size = 300, 4000
	k := startShelf(t, "a", response)
	g := apptest.Start(t, "backends: [{url: "+k.url+", name: e0}]\n"+unretried)
	model := strings.Repeat("m", size)
	createAt(t, g, model)
	before := heap()
	for range times {
		createAt(t, g, model)
	}
	if each := (heap() - before) / times; each > size/4 {
		t.Errorf("%d bytes are kept for a response, of a model's name of %d", each, size)
	}
	quiet(t, g)
}

// TestStoredStreamIsPinged: a stream that is asked for by GET, of a response that
// is still being made, is as silent as any other.
func TestStoredStreamIsPinged(t *testing.T) {
	leavesNothing(t)
	url, goOn := pausing(t, "", chunkedHead+chunk(pingFirst).wire, chunk(doneEvent).wire+lastChunk.wire)
	g := startPinging(t, "backends: [{url: "+url+", name: e0}]\n"+unretried)
	c := dialRaw(t, g.Addr)
	c.send("GET " + responsesURL + "/resp_a?starting_after=0&stream=true HTTP/1.1\r\nHost: gateway\r\n\r\n")
	resp, err := http.ReadResponse(c.br, &http.Request{Method: "GET"})
	if err != nil || resp.StatusCode != 200 || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		t.Fatalf("%v %+v", err, resp)
	}
	s := &pingedStream{rawClient: c, stream: resp.Body}
	s.until(keepAlive)
	goOn <- struct{}{}
	s.until(pingFirst)
	s.until(keepAlive)
	goOn <- struct{}{}
	if body := strings.ReplaceAll(s.rest(), keepAlive, ""); body != pingFirst+doneEvent {
		t.Errorf("%q", s.body)
	}
	s.Close()
	quiet(t, g)
}
