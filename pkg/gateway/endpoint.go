package gateway

import (
	"fmt"

	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/route"
	"github.com/llmproxy/llmproxy/pkg/usage"
)

// endpoint is one row of the table of surfaces: how they differ, and nothing
// else of them does.
type endpoint struct {
	path    string // here and, behind the backend's prefix, on the engine
	engines engines
	method  string     // POST when empty
	api     api        // whose errors and streams it has
	form    bool       // multipart/form-data in place of JSON
	creates bool       // its answer is a response that later requests name
	stored  bool       // the path names such a response; there is no body to read
	kind    usage.Kind // where its answers tell the usage
	surface route.Surfaces
	other   *endpoint // of the same path and method; nil: none
}

// engines is a set of them.
type engines uint8

const (
	vllm engines = 1 << iota
	sglang
	tgi
	llamacpp
	vllmRust
	all = vllm | sglang | tgi | llamacpp | vllmRust
)

// api is whose clients a surface is for.
type api uint8

const (
	apiOpenAI    api = iota
	apiResponses     // OpenAI's, with named events
	apiAnthropic
	apiTGI // TGI's own
)

// endpoints are what the gateway forwards, and the engines that have it.
// Whatever an engine serves beside them, its admin endpoints above all, cannot
// be reached. Two rows may have one path and method: see Exchange.serving.
var endpoints = [...]endpoint{
	{path: "/v1/chat/completions", engines: all, kind: usage.KindChat},
	{path: "/v1/completions", engines: all, kind: usage.KindCompletions},
	{path: "/v1/embeddings", engines: vllm | vllmRust | sglang | llamacpp, kind: usage.KindPooling},

	{path: "/v1/responses", engines: vllm | vllmRust | sglang | llamacpp, api: apiResponses, creates: true, kind: usage.KindResponses},
	{path: "/v1/responses/{id}", engines: vllm | sglang, api: apiResponses, stored: true, method: "GET"},
	{path: "/v1/responses/{id}", engines: vllm | sglang, api: apiResponses, stored: true, method: "DELETE"},
	{path: "/v1/responses/{id}/cancel", engines: vllm | sglang, api: apiResponses, stored: true},
	{path: "/v1/responses/{id}/input_items", engines: vllm | sglang, api: apiResponses, stored: true, method: "GET"},
	{path: "/v1/responses/input_tokens", engines: llamacpp, api: apiResponses},

	{path: "/v1/messages", engines: vllm | vllmRust | sglang | llamacpp, api: apiAnthropic, kind: usage.KindMessages},
	{path: "/v1/messages/count_tokens", engines: vllm | vllmRust | sglang | llamacpp, api: apiAnthropic},

	{path: "/v1/rerank", engines: vllm | sglang | llamacpp, kind: usage.KindPooling},
	{path: "/v2/rerank", engines: vllm, kind: usage.KindPooling},
	{path: "/rerank", engines: vllm | llamacpp, kind: usage.KindPooling},
	{path: "/v1/reranking", engines: llamacpp, kind: usage.KindPooling},
	{path: "/reranking", engines: llamacpp, kind: usage.KindPooling},
	{path: "/v1/score", engines: vllm | sglang, kind: usage.KindPooling},
	{path: "/score", engines: vllm, kind: usage.KindPooling},
	{path: "/v1/classify", engines: sglang, kind: usage.KindPooling},
	{path: "/classify", engines: vllm | sglang, kind: usage.KindPooling},
	{path: "/pooling", engines: vllm | vllmRust, kind: usage.KindPooling},

	{path: "/tokenize", engines: all},
	{path: "/detokenize", engines: vllm | vllmRust | sglang | llamacpp},
	{path: "/v1/tokenize", engines: sglang},
	{path: "/v1/detokenize", engines: sglang},

	{path: "/v1/audio/transcriptions", engines: vllm | sglang | llamacpp, form: true, kind: usage.KindAudio},
	{path: "/v1/audio/translations", engines: vllm, form: true, kind: usage.KindAudio},

	{path: "/generate", engines: tgi, api: apiTGI, kind: usage.KindTGI},
	{path: "/generate", engines: sglang, kind: usage.KindSGLang},
	{path: "/generate", engines: sglang, method: "PUT", kind: usage.KindSGLang},
	{path: "/generate_stream", engines: tgi, api: apiTGI, kind: usage.KindTGI},
}

// endpointTable is endpoints as the handlers know them: one of each path and
// method, the other behind it.
func endpointTable() []*endpoint {
	var table []*endpoint
	first := map[[2]string]*endpoint{}
	for i := range endpoints {
		e := endpoints[i]
		e.surface = 1 << i
		if e.method == "" {
			e.method = "POST"
		}
		if before := first[[2]string{e.method, e.path}]; before != nil {
			before.other = &e
			continue
		}
		first[[2]string{e.method, e.path}] = &e
		table = append(table, &e)
	}
	return table
}

// Surfaces are what an engine of that name serves, all of them when it is "".
func Surfaces(engine string) (route.Surfaces, error) {
	var which engines
	switch engine {
	case "":
		return 0, nil
	case "vllm":
		which = vllm
	case "vllm-rust":
		which = vllmRust
	case "sglang":
		which = sglang
	case "tgi":
		which = tgi
	case "llamacpp":
		which = llamacpp
	default:
		return 0, fmt.Errorf("cannot tell what an engine %q serves", engine)
	}
	var s route.Surfaces
	for i, e := range endpoints {
		if e.engines&which != 0 {
			s |= 1 << i
		}
	}
	return s, nil
}

// shape is that of the errors that the endpoint's clients read.
func (e *endpoint) shape() openai.Shape {
	if e.api == apiAnthropic {
		return openai.ShapeAnthropic
	}
	return openai.ShapeOpenAI
}

// appendError writes err in that shape. A nil endpoint is a path that is none.
func (e *endpoint) appendError(dst []byte, err *openai.Error) []byte {
	if e == nil {
		return err.Append(dst)
	}
	switch e.api {
	case apiTGI:
		return err.AppendTGI(dst)
	case apiAnthropic:
		return err.AppendAnthropic(dst)
	}
	return err.Append(dst)
}

// appendErrorEvent is the same for a stream that has had so many events.
func (e *endpoint) appendErrorEvent(dst []byte, err *openai.Error, events int) []byte {
	switch e.api {
	case apiTGI:
		return err.AppendTGIEvent(dst)
	case apiAnthropic:
		return err.AppendAnthropicEvent(dst)
	case apiResponses:
		return err.AppendResponsesEvent(dst, events)
	}
	return err.AppendEvent(dst)
}
