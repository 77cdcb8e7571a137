package app_test

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// pieceOfText is an event with a token, as no surface's first and last events are.
var pieceOfText = regexp.MustCompile(`"(content|text|delta)":"[^"]|"token":\{|"meta_info"`)

// countedStream is a stream that a test reads event by event.
type countedStream struct {
	*rawClient
	id             string
	lines          *bufio.Reader
	events, pieces int  // read so far, [DONE] and errors aside
	over           bool // a terminal event was read
}

// openCounted asks for a stream and reads the head of the answer.
func (s *countSite) openCounted(t *testing.T, row *apiRow, a apiAsk) (*apiTry, *countedStream) {
	t.Helper()
	y := s.apiTry(t, row)
	a.stream = true
	c, _ := y.open(s.gateway.Addr, a)
	return y, c.counted(row.method)
}

// openBody is openCounted with a body of the test's own.
func (s *countSite) openBody(t *testing.T, row *apiRow, body string) (*apiTry, *countedStream) {
	t.Helper()
	y := s.apiTry(t, row)
	y.mark()
	c := dialRaw(t, s.gateway.Addr)
	c.send(post(row.path, body))
	return y, c.counted(row.method)
}

// mark has rows leave out what has come so far.
func (y *apiTry) mark() {
	for i, e := range y.engines {
		y.marks[i] = len(e.Ledger())
	}
}

func (c *rawClient) counted(method string) *countedStream {
	c.t.Helper()
	resp, err := http.ReadResponse(c.br, &http.Request{Method: method})
	if err != nil {
		c.t.Fatal(err)
	}
	return &countedStream{rawClient: c, id: resp.Header.Get("X-Request-Id"), lines: bufio.NewReader(resp.Body)}
}

// read reads up to so many events have been read, and reports whether there were
// so many.
func (c *countedStream) read(events int) bool {
	for c.events < events && !c.over {
		line, err := c.lines.ReadString('\n')
		if err != nil {
			return false
		}
		data, ok := strings.CutPrefix(line, "data:")
		e := sseEvent{data: strings.TrimSpace(data)}
		switch {
		case strings.HasPrefix(line, "event:"):
			e.name = strings.TrimSpace(line[len("event:"):])
			c.over = e.isTerminal()
		case !ok || strings.Contains(data[:min(len(data), 30)], `error"`):
		case e.isTerminal():
			c.over = true
		default:
			c.events++
			if pieceOfText.MatchString(data) {
				c.pieces++
			}
		}
	}
	return c.events >= events
}

const allEvents = 1 << 30

// streaming are the surfaces on which the site's engines stream.
func (s *countSite) streaming(t *testing.T) (rows []*apiRow) {
	t.Helper()
	for _, row := range apiRows(t) {
		if row.stored || countsNothing.MatchString(row.path) || row.method == "PUT" {
			continue
		}
		y := s.apiTry(t, row)
		if direct := y.ask(s.engines[0].Addr, apiAsk{stream: true}); direct.isStream() && y.has() {
			rows = append(rows, row)
		}
	}
	if len(rows) < 2 {
		t.Fatalf("%d surfaces stream", len(rows))
	}
	return rows
}

// has tells whether the gateway believes that the engine has the surface.
func (y *apiTry) has() bool {
	for _, name := range y.row.engines {
		if strings.EqualFold(strings.ReplaceAll(y.dialect, "-", ""), name) {
			return true
		}
	}
	return y.dialect == mockvllm.DialectVLLMRust && len(y.row.engines) == 4 // all
}

// cutOf is what is to be billed for a stream that had so many pieces of text.
func (s *countSite) cutOf(row *apiRow, e mockvllm.Entry, pieces int) bill {
	b := bill{Endpoint: row.path, Backend: "e0", Stream: true, Attempts: 1, Completion: pieces, Estimated: true}
	if row.hasModel() {
		b.Model, b.Served = "mock-model", "mock-model"
	}
	openAI := strings.HasSuffix(row.path, "/completions")
	messages := row.path == "/v1/messages" // tells the prompt first
	sglang := s.dialect == mockvllm.DialectSGLang
	unknown := sglang && pieces == 0 // its first chunk tells nothing
	if openAI && s.continuous && !unknown || sglang && row.path == "/generate" || messages && pieces == 0 {
		b.Estimated = false
	}
	if !b.Estimated || messages {
		b.Prompt = e.PromptTokens
	}
	return b
}

// ended is e0's row of a request, once it is over and all is there that the client
// has read.
func (y *apiTry) ended(events int) mockvllm.Entry {
	y.t.Helper()
	return y.awaitRow("ended", func(r *mockvllm.Entry) bool { return r.Ended() && r.Events >= events })
}

// What an engine has sent of a stream is billed, however the stream was cut: as it
// is where the engine tells the usage in every event, else estimated from the
// events.
func TestCountCut(t *testing.T) {
	leavesNothing(t)
	t.Run("all", func(t *testing.T) {
		countSites(t, "", func(t *testing.T, s *countSite) {
			for _, row := range s.streaming(t) {
				for _, fault := range []string{"stall", "reset", "fin", "error-event"} {
					for _, k := range []int{1, 2 + rand.IntN(12)} {
						t.Run(fmt.Sprintf("%s/%s after %d", row.name(), fault, k), func(t *testing.T) { s.cut(t, row, fault, k) })
					}
				}
				t.Run(row.name()+"/client leaves at random", func(t *testing.T) { s.leftMidway(t, row) })
				t.Run(row.name()+"/client leaves at the end", func(t *testing.T) { s.leftAtDone(t, row) })
				t.Run(row.name()+"/client leaves before the first byte", func(t *testing.T) { s.leftEarly(t, row) })
			}
		})
	})
}

// cut ends a stream after k events: by the client's leaving, when the engine
// falls silent, else by the engine.
func (s *countSite) cut(t *testing.T, row *apiRow, fault string, k int) {
	y := s.apiTry(t, row)
	defer y.fault(fmt.Sprintf("%s=%d", fault, k))()
	y, c := s.openCounted(t, row, apiAsk{tokens: 30})
	outcome, status := "upstream_failed", 200
	if fault == "stall" {
		outcome, status = "client_aborted", 499
		c.read(k)
	} else {
		c.read(allEvents)
	}
	c.Close()
	e := y.ended(c.events)
	if sent := e.Events; c.events != k || sent < k || sent > k && fault != "error-event" {
		t.Errorf("the client got %d events, the engine sent %d", c.events, sent)
	}
	want := s.cutOf(row, e, c.pieces)
	want.Outcome, want.Status = outcome, status
	s.expect(t, c.id, want)
}

// leftMidway: of what the engine wrote after the client left and before the gateway
// hung up, any part may be billed. The ledger may miss the event that the engine was
// just writing then.
func (s *countSite) leftMidway(t *testing.T, row *apiRow) {
	y, c := s.openCounted(t, row, apiAsk{tokens: 4000})
	if !c.read(8 + rand.IntN(30)) {
		t.Fatal("the stream has ended")
	}
	if rand.IntN(2) == 0 {
		if err := c.Conn.(*net.TCPConn).SetLinger(0); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	e := y.ended(c.events)
	want := s.cutOf(row, e, c.pieces)
	want.Outcome, want.Status = "client_aborted", 499
	s.expectUpTo(t, c.id, want, e.Events+1-(c.events-c.pieces))
}

// leftAtDone: a client that goes at the last event, as the SDKs do, has it all.
func (s *countSite) leftAtDone(t *testing.T, row *apiRow) {
	y, c := s.openCounted(t, row, apiAsk{})
	c.read(allEvents)
	if !c.over {
		t.Fatal("the stream has no end")
	}
	c.Close()
	s.expect(t, c.id, s.countedOf(row, y.answered()[0], true))
}

// leftEarly: nothing was generated, but the engine may have read the prompt.
func (s *countSite) leftEarly(t *testing.T, row *apiRow) {
	if row.path == responsesURL {
		t.Skip("it begins before there is a token")
	}
	y := s.apiTry(t, row)
	c, _ := y.open(s.gateway.Addr, apiAsk{stream: true, prefill: true})
	e := y.awaitRow("in prefill", func(r *mockvllm.Entry) bool { return r.State == mockvllm.StatePrefill })
	c.Close()
	y.ended(0)
	id, _ := lastOf([]mockvllm.Entry{e})
	want := s.cutOf(row, e, 0)
	want.Prompt, want.Estimated, want.Outcome, want.Status = 0, true, "client_aborted", 499
	s.expect(t, id, want)
}

// TestCountLost: the same when the gateway ends, and when the engine does.
func TestCountLost(t *testing.T) {
	leavesNothing(t)
	for outcome, lose := range map[string]func(s *countSite){
		"interrupted":     func(s *countSite) { s.gateway.Close() },
		"upstream_failed": func(s *countSite) { s.engines[0].Close() },
	} {
		t.Run(outcome, func(t *testing.T) {
			countSites(t, "server: {shutdown_timeout: 1ms}\n", func(t *testing.T, s *countSite) {
				type open struct {
					row *apiRow
					c   *countedStream
					e   mockvllm.Entry
				}
				var streams []open
				rows := s.streaming(t)
				end := s.apiTry(t, rows[0]).fault("stall=7")
				for _, row := range rows {
					y, c := s.openCounted(t, row, apiAsk{tokens: 30})
					if !c.read(7) {
						t.Fatalf("%s has ended", row.name())
					}
					streams = append(streams, open{row, c, y.rows(0)[0]})
				}
				lose(s)
				for _, o := range streams {
					if o.c.read(allEvents); o.c.events != 7 {
						t.Errorf("%s went on", o.row.name())
					}
					o.c.Close()
					want := s.cutOf(o.row, o.e, o.c.pieces)
					want.Outcome, want.Status = outcome, 200
					s.expect(t, o.c.id, want)
				}
				end()
			})
		})
	}
}

// A request that no engine has heard of is nobody's to pay.
func TestCountNothingWithoutAnEngine(t *testing.T) {
	leavesNothing(t)
	s := startCountSite(t, mockvllm.DialectVLLM, false, "")
	for _, e := range s.engines {
		e.Close()
	}
	for _, body := range []string{wholeChat, streamChat} {
		if status, answer := s.gateway.Post(t, chatPath, body); status != 502 {
			t.Errorf("%d %s", status, answer)
		}
	}
	apptest.Eventually(t, "nothing waits", func() bool { return s.gateway.Metric("llmproxy_usage_backlog_events") == 0 })
	s.settle()
}
