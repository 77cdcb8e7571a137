package mockvllm

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Dialects an Engine can speak.
const (
	DialectVLLM     = "vllm"      // vLLM's Python front end
	DialectVLLMRust = "vllm-rust" // vLLM's newer front end
	DialectSGLang   = "sglang"
	DialectLlamaCPP = "llamacpp"
	DialectTGI      = "tgi"
)

// Dialects returns the names of all dialects in alphabetical order.
func Dialects() []string { return slices.Sorted(maps.Keys(dialects)) }

var dialects = map[string]*dialect{
	DialectVLLM: {
		route: (*call).routeVLLM, strict: true, defaultUsage: true, anthropic: true, chatID: "chatcmpl-", textID: "cmpl-",
		prefix: "data: ", ping: ": keep-alive\n\n", failure: vllmFailure, metrics: (*exposition).vllm,
	},
	DialectVLLMRust: {
		route: (*call).routeRust, strict: true, anthropic: true, chatID: "chatcmpl-", textID: "cmpl-",
		prefix: "data: ", ping: ": keep-alive\n\n", stack: stackAxum, types: map[string]string{sseHead.contentType: "text/event-stream"},
		extra:   [][2]string{{"cache-control", "no-cache"}},
		refusal: rustRefusal, failure: rustFailure, metrics: (*exposition).vllm,
	},
	DialectSGLang: {
		route: (*call).routeSGLang, late: true, anthropic: true, prefix: "data: ", ping: ": keep-alive\n\n",
		refusal: sglangRefusal, failure: sglangFailure, full: (*call).sglangFull, metrics: (*exposition).sglang,
	},
	DialectLlamaCPP: {
		route: (*call).routeLlama, chatID: "chatcmpl-", textID: "chatcmpl-", prefix: "data: ", ping: ":\n\n", stack: stackHTTPLib,
		types: map[string]string{
			jsonHead.contentType: "application/json; charset=utf-8",
			sseHead.contentType:  "text/event-stream",
		},
		refusal: llamaRefusal, failure: llamaFailure, metrics: (*exposition).llama,
	},
	DialectTGI: {
		route: (*call).routeTGI, prefix: "data:", ping: ":\n\n", stack: stackAxum, failure: tgiFailure, metrics: (*exposition).tgi,
	},
}

// dialect is how engines of one kind differ from the others on the wire. The
// answers are written in vLLM's words and translated where a dialect has its own.
type dialect struct {
	route func(*call) error

	strict         bool   // models that are not served and options out of place are refused
	defaultUsage   bool   // stream_options without include_usage ask for it
	anthropic      bool   // the Messages API has Anthropic's errors
	chatID, textID string // before the ids of the two OpenAI APIs

	stack  stack
	types  map[string]string // content types by vLLM's, where they differ
	prefix string            // of an event
	ping   string            // the comment of a silent stream
	late   bool              // the head of a stream waits for the first event
	extra  [][2]string       // further headers of a stream

	refusal func(x *call, status int, f flaw) (int, []byte) // an error answer; nil = as vLLM's
	failure func(x *call) (event []byte, done bool)         // the event of a generation that failed, and whether [DONE] follows
	full    func(x *call) error                             // answers a stream that finds the queue full; nil = a whole 503
	metrics func(*exposition)
}

// flaw is what an error body of vLLM's says.
type flaw struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
}

// about tells whether the flaw is one of the field named.
func (f *flaw) about(param string) bool { return f.Param != nil && *f.Param == param }

// readFlaw reads an error body of vLLM's; ok is false when it is none, as
// Anthropic's shape is none.
func readFlaw(body []byte) (f flaw, ok bool) {
	var in struct {
		Type  string          `json:"type"`
		Error json.RawMessage `json:"error"`
	}
	if json.Unmarshal(body, &in) != nil || in.Type != "" || len(in.Error) == 0 {
		return f, false
	}
	if in.Error[0] == '"' {
		return f, json.Unmarshal(in.Error, &f.Message) == nil
	}
	return f, json.Unmarshal(in.Error, &f) == nil
}

// translate puts an error answer into the words of the dialect.
func (x *call) translate(h *head, body []byte) []byte {
	if h.status < 400 {
		return body
	}
	if x.e.dialect.anthropic && strings.HasPrefix(x.req.URL.Path, "/v1/messages") {
		body = anthropicError(body)
	}
	if refusal := x.e.dialect.refusal; refusal != nil {
		if f, ok := readFlaw(body); ok {
			h.status, body = refusal(x, h.status, f)
		}
	}
	return body
}

func vllmFailure(*call) ([]byte, bool) {
	return []byte(vllmError("Internal server error", "InternalServerError", "", 500)), true
}

// table says what an engine serves.
type table struct {
	post  map[string]func(*call) error // generate; by POST alone
	get   map[string]func(*call) error // tell something
	admin map[string]bool              // take any method and leave a row in the ledger, nothing more
}

// look returns what answers a request; allow is the method to use when it is
// another, and both are empty when the path is not served.
func (t *table) look(method, path string) (answer func(*call) error, allow string) {
	post, get := t.post[path], t.get[path]
	switch {
	case post != nil && method == "POST":
		return func(x *call) error {
			x.e.open.Add(1)
			defer x.e.open.Add(-1)
			return post(x)
		}, ""
	case get != nil && (method == "GET" || method == "HEAD"):
		return get, ""
	case t.admin[path]:
		return (*call).admin, ""
	case post != nil:
		return nil, "POST"
	case get != nil:
		return nil, "GET"
	}
	return nil, ""
}

// admin answers an endpoint that a gateway must never let a client reach.
func (x *call) admin() error {
	if path := x.req.URL.Path; path == "/reset_prefix_cache" || path == "/flush_cache" {
		x.e.sched.forget()
	}
	return x.json(object{})
}

// guarded tells whether a path under one of the prefixes lacks the key it wants.
func (x *call) guarded(prefixes ...string) bool {
	key := x.e.opt.APIKey
	under := func(prefix string) bool { return strings.HasPrefix(x.req.URL.Path, prefix) }
	return key != "" && slices.ContainsFunc(prefixes, under) && !x.authorized(key)
}
