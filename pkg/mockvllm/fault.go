package mockvllm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// fault is one way to misbehave, for one request.
type fault struct {
	name    string
	arg     string
	instead bool // it took the place of the answer, or of its end
}

// faultNames lists every fault with what its argument means. k counts SSE
// events; reset and fin without it strike before the header, the others after
// one event.
var faultNames = map[string]string{
	"refuse":            "duration the listener stays closed (default 1s); the request is reset",
	"hang":              "accepted, never answered",
	"die":               "the engine is killed",
	"reset":             "k: RST after k events, or after half of a whole body",
	"fin":               "k: closed after k events, or after half of a whole body, no last chunk",
	"close-idle":        "the connection is closed silently after the answer",
	"close-on-reuse":    "the connection is closed when its next request arrives",
	"503":               "vLLM's answer while scaling, llama.cpp's while loading",
	"429":               "seconds of retry-after; TGI: overloaded, for a stream 200 and an error event",
	"401":               "the engine refuses the gateway's key",
	"404":               "the model has been unloaded",
	"500-empty":         "a 500 without a body",
	"500-text":          "the server's own text/plain 500",
	"500-json":          "an internal error",
	"500-engine-dead":   "EngineDeadError, as vLLM answers before it exits",
	"slow-headers":      "duration before the header",
	"slow-first-token":  "duration between header and first event, or before a whole answer",
	"stall":             "k[,duration]: silence after k events or half of a whole body, for ever without duration",
	"no-done":           "no [DONE], response.completed or message_stop",
	"error-event-first": "an error event instead of the answer, then [DONE]",
	"error-event":       "k: an error event after k events, then [DONE]; a 500 for a whole answer",
	"malformed-event":   "k: event k+1 is broken JSON",
	"truncated-json":    "half of a whole body, then closed",
	"wrong-length":      "n: content-length off by n (default -10)",
	"split-bytes":       "every byte of the stream is a chunk of its own",
	"crlf":              "events end in CRLF",
	"no-space":          "data: without a space",
	"giant-event":       "bytes of content in one more event (default 1048576)",
	"multi-line":        "events of two data lines",
	"comment":           "\": keep-alive\" before the first event",
	"huge-header":       "bytes of an extra header (default 65536)",
	"1xx":               "103 Early Hints and 102 Processing before the answer",
	"gzip":              "a gzip body nobody asked for",
	"usage-missing":     "no usage",
	"usage-zero":        "usage is all zeros",
	"wrong-model":       "another model's name in the answer",
}

// parseFault reads "name" or "name=arg".
func parseFault(s string) (fault, error) {
	name, arg, _ := strings.Cut(s, "=")
	if _, ok := faultNames[name]; !ok {
		return fault{}, fmt.Errorf("unknown fault %q", name)
	}
	return fault{name: name, arg: arg}, nil
}

// is tells whether the fault is the one named.
func (f *fault) is(name string) bool { return f.name == name }

// events is the number of events after which the fault strikes; ok is false
// when it strikes at once.
func (f *fault) events() (k int, ok bool) {
	s, _, _ := strings.Cut(f.arg, ",")
	k, err := strconv.Atoi(s)
	if err != nil && !f.is("reset") && !f.is("fin") {
		return 1, true
	}
	return k, err == nil
}

// number is the argument as a number, or def.
func (f *fault) number(def int) int {
	if n, err := strconv.Atoi(f.arg); err == nil {
		return n
	}
	return def
}

// duration is the argument, or the part after its comma, as a duration, or def.
func (f *fault) duration(def time.Duration) time.Duration {
	s := f.arg
	if _, after, ok := strings.Cut(s, ","); ok {
		s = after
	}
	if d, err := time.ParseDuration(s); err == nil {
		return d
	}
	return def
}

// FaultRule makes an engine misbehave for requests that do not ask for it.
type FaultRule struct {
	Fault string        // "name" or "name=arg", see cmd/mockvllm -h
	Count int           // requests it applies to, without Path only POSTs, so that health checks do not use it up; 0 = any number
	For   time.Duration // how long it applies; 0 = until cleared
	Path  string        // only this path; "" = every path
}

type faultRules struct {
	mu    sync.Mutex // guards rules
	rules []activeRule
}

type activeRule struct {
	FaultRule
	parsed fault
	until  time.Time // zero = no end
}

// Fault adds a rule; earlier rules win. It fails for an unknown fault.
func (e *Engine) Fault(r FaultRule) error {
	f, err := parseFault(r.Fault)
	if err != nil {
		return err
	}
	a := activeRule{FaultRule: r, parsed: f}
	if r.For > 0 {
		a.until = time.Now().Add(r.For)
	}
	e.faults.mu.Lock()
	defer e.faults.mu.Unlock()
	e.faults.rules = append(e.faults.rules, a)
	return nil
}

// ClearFaults removes every rule.
func (e *Engine) ClearFaults() {
	e.faults.mu.Lock()
	defer e.faults.mu.Unlock()
	e.faults.rules = nil
}

// take returns the fault that the rules have for a path.
func (f *faultRules) take(method, path string) fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	f.rules = slices.DeleteFunc(f.rules, func(r activeRule) bool {
		return !r.until.IsZero() && now.After(r.until)
	})
	for i := range f.rules {
		r := &f.rules[i]
		if r.Path != "" && r.Path != path || r.Path == "" && r.Count > 0 && method != "POST" {
			continue
		}
		found := r.parsed
		if r.Count == 1 {
			f.rules = slices.Delete(f.rules, i, i+1)
		} else if r.Count > 1 {
			r.Count--
		}
		return found
	}
	return fault{}
}

// wishes are the fields of a request body that are meant for the mock alone.
type wishes struct {
	Fault json.RawMessage `json:"mock_fault"` // "name=arg", or {"fault":"name=arg","engines":["a"]}
	Tag   string          `json:"mock_tag"`
}

// pickFault decides how the call misbehaves: its body decides, then its header,
// then the engine's rules.
func (x *call) pickFault() error {
	var want wishes
	if bytes.Contains(x.body, []byte(`"mock_`)) {
		// A body that does not parse gets its own answer later.
		_ = json.Unmarshal(x.body, &want)
	}
	if want.Tag != "" {
		x.set(func(r *Entry) { r.Tag = want.Tag })
	}
	f, err := x.e.bodyFault(want.Fault)
	if err == nil && f.name == "" {
		if h := x.req.Header.Get("X-Mock-Fault"); h != "" {
			f, err = parseFault(h)
		}
	}
	if err != nil {
		return err
	}
	if f.name == "" {
		f = x.e.faults.take(x.req.Method, x.req.URL.Path)
	}
	x.fault = f
	if f.name != "" {
		x.set(func(r *Entry) { r.Fault = strings.TrimSuffix(f.name+"="+f.arg, "=") })
	}
	return nil
}

// bodyFault reads mock_fault in either form; one for other engines is none.
func (e *Engine) bodyFault(raw json.RawMessage) (fault, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return fault{}, nil
	}
	var plain string
	if json.Unmarshal(raw, &plain) == nil {
		return parseFault(plain)
	}
	var aimed struct {
		Fault   string   `json:"fault"`
		Engines []string `json:"engines"`
	}
	if err := json.Unmarshal(raw, &aimed); err != nil {
		return fault{}, errors.New("mock_fault is neither a string nor an object")
	}
	if len(aimed.Engines) > 0 && !slices.Contains(aimed.Engines, e.opt.Name) {
		return fault{}, nil
	}
	return parseFault(aimed.Fault)
}
