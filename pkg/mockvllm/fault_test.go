package mockvllm

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// faultCase is one fault striking once.
type faultCase struct {
	fault  string
	stream bool
	want   []string // parts of the answer
	not    []string
	state  string
}

func faultCases() []faultCase {
	const full = "data: [DONE]\n\n\r\n0\r\n\r\n"
	return []faultCase{
		{"reset", true, []string{"error: "}, nil, StateFaulted},
		{"reset=2", true, []string{"200 OK", "data: "}, []string{"[DONE]"}, StateFaulted},
		{"reset=2", false, []string{"content-length: ", `{"id"`}, []string{`"kv_transfer_params"`}, StateFaulted},
		{"fin", true, nil, []string{"HTTP"}, StateFaulted},
		{"fin=2", true, []string{"data: "}, []string{"[DONE]", "\r\n0\r\n"}, StateFaulted},
		{"close-idle", true, []string{full}, []string{"connection: close"}, StateDone},
		{"503", true, []string{"503 Service Unavailable", `{"error":"The model is currently scaling. Please try again later."}`}, nil, StateFaulted},
		{"429=2", false, []string{"429 Too Many Requests", "retry-after: 2\r\n"}, nil, StateFaulted},
		{"401", false, []string{"401 Unauthorized", `{"error":"Unauthorized"}`}, nil, StateFaulted},
		{"404", false, []string{"404 Not Found", `"NotFoundError"`}, nil, StateFaulted},
		{"500-empty", false, []string{"500 Internal Server Error", "content-length: 0"}, nil, StateFaulted},
		{"500-text", false, []string{"500 Internal", "content-length: 21", "\r\n\r\nInternal Server Error"}, nil, StateFaulted},
		{"multi-line", true, []string{`data: {"id":"chatcmpl-r1",` + "\ndata: \"object\"", full}, nil, StateDone},
		{"500-json", false, []string{"500 Internal", `"InternalServerError"`}, nil, StateFaulted},
		{"500-engine-dead", false, []string{"500 Internal", "EngineDeadError"}, nil, StateFaulted},
		{"slow-headers=1ms", true, []string{full}, nil, StateDone},
		{"slow-first-token=1ms", true, []string{full}, nil, StateDone},
		{"stall=2,1ms", true, []string{full}, nil, StateDone},
		{"stall=2,1ms", false, []string{`{"id"`}, []string{`"kv_transfer_params"`}, StateFaulted},
		{"no-done", true, []string{"\r\n0\r\n\r\n"}, []string{"[DONE]"}, StateDone},
		{"error-event-first", true, []string{"200 OK", `data: {"error":`, full}, []string{"delta"}, StateFaulted},
		{"error-event=2", true, []string{"delta", `data: {"error":`, full}, []string{"finish_reason\":\"stop"}, StateFaulted},
		{"error-event", false, []string{"500 Internal"}, nil, StateFaulted},
		{"malformed-event=1", true, []string{full}, nil, StateDone},
		{"truncated-json", false, []string{`{"id"`}, []string{`"kv_transfer_params"`}, StateFaulted},
		{"wrong-length=10", false, []string{`"kv_transfer_params":null}`}, nil, StateFaulted},
		{"wrong-length", false, []string{`"kv_transfer_params":null}`}, nil, StateDone},
		{"split-bytes", true, []string{"\r\n1\r\n{\r\n1\r\n\"\r\n"}, nil, StateDone},
		{"crlf", true, []string{"data: [DONE]\r\n\r\n\r\n0\r\n"}, nil, StateDone},
		{"no-space", true, []string{"data:[DONE]\n\n"}, []string{"data: "}, StateDone},
		{"giant-event=5000", true, []string{strings.Repeat("g", 5000), full}, nil, StateDone},
		{"comment", true, []string{": keep-alive\n\n", full}, nil, StateDone},
		{"huge-header=9000", true, []string{"x-huge: " + strings.Repeat("h", 9000), full}, nil, StateDone},
		{"1xx", true, []string{"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\n", full}, nil, StateDone},
		{"gzip", false, []string{"content-encoding: gzip", "\x1f\x8b"}, []string{"chatcmpl"}, StateDone},
		{"gzip", true, []string{"content-encoding: gzip", "\x1f\x8b"}, []string{"chatcmpl"}, StateDone},
		{"usage-missing", false, []string{"chatcmpl"}, []string{`"usage":`}, StateDone},
		{"usage-missing", true, []string{full}, []string{`"usage":`}, StateDone},
		{"usage-zero", false, []string{`"total_tokens":0`}, nil, StateDone},
		{"wrong-model", true, []string{`"model":"another-model"`}, []string{"mock-model"}, StateDone},
	}
}

// TestFaults lets every fault strike once, whole and streaming, and looks at the
// bytes and at the row.
func TestFaults(t *testing.T) {
	seen := map[string]bool{"hang": true, "refuse": true, "die": true, "close-on-reuse": true} // own tests
	e, addr := tcpEngine(t, Options{ForceUsage: true})
	for _, c := range faultCases() {
		name, _, _ := strings.Cut(c.fault, "=")
		seen[name] = true
		tag := fmt.Sprintf("%s %v", c.fault, c.stream)
		t.Run(tag, func(t *testing.T) {
			body := chatBody(fmt.Sprintf(`"stream":%v,"mock_tag":%q,"mock_fault":%q`, c.stream, tag, c.fault))
			headers := []string{requestR}
			if name != "close-idle" {
				headers = append(headers, closing)
			}
			got := exchange(t, addr, request(chatPath, body, headers...))
			for _, w := range c.want {
				if !strings.Contains(got, w) {
					t.Errorf("no %q in %q", w, got)
				}
			}
			for _, w := range c.not {
				if strings.Contains(got, w) {
					t.Errorf("%q in %q", w, got)
				}
			}
			row := await(t, e, "ended", func(r Entry) bool { return r.Tag == tag && r.Ended() })
			if row.State != c.state || row.Fault != c.fault {
				t.Errorf("state %s, fault %q", row.State, row.Fault)
			}
		})
	}
	for name := range faultNames {
		if !seen[name] {
			t.Errorf("fault %s has no case", name)
		}
	}
}

// TestHang: nothing is ever sent; the client's going ends it.
func TestHang(t *testing.T) {
	e, addr := tcpEngine(t, Options{})
	c := dial(t, addr)
	write(t, c, request(chatPath, chatBody(""), "X-Mock-Fault: hang"))
	await(t, e, "hanging", func(r Entry) bool { return r.Fault == "hang" })
	_ = c.Close()
	if r := await(t, e, "ended", func(r Entry) bool { return r.Ended() }); r.State != StateAborted || r.Status != 0 {
		t.Errorf("row %+v", r)
	}
}

// TestRefuse: dialling is refused for the time, then works on the same address.
func TestRefuse(t *testing.T) {
	_, addr := tcpEngine(t, Options{})
	got := exchange(t, addr, request(chatPath, chatBody(`"mock_fault":"refuse=300ms"`)))
	if !strings.HasPrefix(got, "error: ") && got != "" {
		t.Errorf("answered %q", got)
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		_ = c.Close()
		t.Error("not refused")
	}
	eventually(t, "listening again", func() bool {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	if got := exchange(t, addr, get("/health")); !strings.HasPrefix(got, "HTTP/1.1 200") {
		t.Errorf("after refusing: %q", got)
	}
}

// TestDie: every connection of the engine ends, and OnDie is told.
func TestDie(t *testing.T) {
	died := make(chan struct{})
	_, addr := tcpEngine(t, Options{StepBase: time.Millisecond, OnDie: func() { close(died) }})
	other := dial(t, addr)
	write(t, other, request(chatPath, chatBody(`"stream":true,"max_tokens":100000`)))
	exchange(t, addr, request(chatPath, chatBody(`"mock_fault":"die"`)))
	<-died
	buf := make([]byte, 4096)
	for {
		if _, err := other.Read(buf); err != nil {
			return
		}
	}
}

// TestCloseOnReuse: the first answer is good, the second request is lost.
func TestCloseOnReuse(t *testing.T) {
	_, addr := tcpEngine(t, Options{})
	got := exchange(t, addr, request(chatPath, chatBody(`"mock_fault":"close-on-reuse"`))+request(chatPath, chatBody("")))
	if n := strings.Count(got, "HTTP/1.1 200"); n != 1 {
		t.Errorf("%d answers, want 1: %q", n, got)
	}
}

// TestFaultRules: count, path, time and engine decide whom a fault strikes.
func TestFaultRules(t *testing.T) {
	e, addr := tcpEngine(t, Options{Name: "a"})
	status := func(path, body string) string {
		raw := get(path)
		if body != "" {
			raw = request(path, body, closing)
		}
		_, rest, _ := strings.Cut(exchange(t, addr, raw), " ")
		code, _, _ := strings.Cut(rest, " ")
		return code
	}
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	add := func(r FaultRule) {
		t.Helper()
		if err := e.Fault(r); err != nil {
			t.Fatal(err)
		}
	}
	add(FaultRule{Fault: "503", Count: 1})
	check("a health check uses up no count", status("/health", ""), "200")
	check("first", status(chatPath, chatBody("")), "503")
	check("second", status(chatPath, chatBody("")), "200")
	add(FaultRule{Fault: "503", Path: "/health"})
	check("other path", status(chatPath, chatBody("")), "200")
	check("its path", status("/health", ""), "503")
	e.ClearFaults()
	check("cleared", status("/health", ""), "200")
	add(FaultRule{Fault: "503", For: time.Nanosecond})
	check("over", status("/health", ""), "200")
	check("another engine", status(chatPath, chatBody(`"mock_fault":{"fault":"503","engines":["b"]}`)), "200")
	check("this engine", status(chatPath, chatBody(`"mock_fault":{"fault":"503","engines":["b","a"]}`)), "503")
	check("unknown fault", status(chatPath, chatBody(`"mock_fault":"nonsense"`)), "400")
	if err := e.Fault(FaultRule{Fault: "nonsense"}); err == nil {
		t.Error("an unknown fault was accepted")
	}
}
