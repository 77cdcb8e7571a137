package mockvllm

import (
	"strconv"
	"strings"
)

// route answers the call.
func (x *call) route() error {
	if err := x.pickFault(); err != nil {
		return x.refuse(badRequest("mock_fault", "%v", err))
	}
	if handled, err := x.strikeEarly(); handled || err != nil {
		return err
	}
	return x.e.dialect.route(x)
}

// vllmGenerate are the paths that generate; they take JSON by POST only, but for
// the forms of audio.
var vllmGenerate = map[string]func(*call) error{
	"/v1/chat/completions":      (*call).chat,
	"/v1/completions":           (*call).completion,
	"/v1/embeddings":            (*call).embedding,
	"/v1/responses":             (*call).responses,
	"/v1/messages":              (*call).messages,
	"/v1/messages/count_tokens": (*call).countTokens,
	"/v1/audio/transcriptions":  (*call).transcribe,
	"/v1/audio/translations":    (*call).transcribe,
	"/rerank":                   (*call).rerank,
	"/v1/rerank":                (*call).rerank,
	"/v2/rerank":                (*call).rerank,
	"/score":                    (*call).score,
	"/v1/score":                 (*call).score,
	"/classify":                 (*call).classify,
	"/pooling":                  (*call).pooling,
	"/tokenize":                 (*call).tokenize,
	"/detokenize":               (*call).detokenize,
}

// vllmRead are the paths that tell something, by GET.
var vllmRead = map[string]func(*call) error{
	"/v1/models": (*call).models,
	"/health":    (*call).ok,
	"/ping":      (*call).ok,
	"/version":   (*call).version,
	"/load":      (*call).serverLoad,
	"/metrics":   (*call).metrics,
}

// vllmAdmin are the endpoints beside the inference API, most of them of vLLM's
// development mode. Nothing guards them; a gateway must never let a client reach
// one. Here they do nothing but leave a row in the ledger.
var vllmAdmin = map[string]bool{
	"/sleep": true, "/wake_up": true, "/is_sleeping": true, "/pause": true, "/resume": true, "/is_paused": true,
	"/reset_prefix_cache": true, "/reset_mm_cache": true, "/reset_encoder_cache": true, "/collective_rpc": true,
	"/abort_requests": true, "/server_info": true, "/start_profile": true, "/stop_profile": true,
	"/init_weight_transfer_engine": true, "/start_weight_update": true, "/update_weights": true,
	"/finish_weight_update": true, "/v1/load_lora_adapter": true, "/v1/unload_lora_adapter": true,
	"/load_lora_adapter": true, "/unload_lora_adapter": true, "/flush_cache": true, "/invocations": true,
	"/docs": true, "/openapi.json": true,
}

func (x *call) routeVLLM() error {
	path, method := x.req.URL.Path, x.req.Method
	guarded := strings.HasPrefix(path, "/v1") || strings.HasPrefix(path, "/v2")
	if key := x.e.opt.APIKey; key != "" && guarded && !x.authorized(key) {
		return x.refuse(&apiError{401, `{"error":"Unauthorized"}`})
	}
	if answer := vllmGenerate[path]; answer != nil {
		if method != "POST" {
			return x.notAllowed("POST")
		}
		if !strings.HasPrefix(path, "/v1/audio/") && !x.isJSON() {
			return x.refuse(&apiError{400, vllmError("Unsupported Media Type: Only 'application/json' is allowed",
				"Bad Request", "", 400)})
		}
		x.e.open.Add(1)
		defer x.e.open.Add(-1)
		return answer(x)
	}
	if answer := vllmRead[path]; answer != nil {
		if method != "GET" && (method != "POST" || path != "/ping") {
			return x.notAllowed("GET")
		}
		return answer(x)
	}
	if strings.HasPrefix(path, "/v1/responses/") {
		return x.storedResponse()
	}
	if vllmAdmin[path] {
		return x.admin()
	}
	return x.refuse(notFound())
}

func (x *call) isJSON() bool {
	kind, _, _ := strings.Cut(x.req.Header.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "application/json")
}

func notFound() *apiError { return &apiError{404, vllmError("Not Found", "Not Found", "", 404)} }

// authorized compares the Bearer token; vLLM and TGI take no other scheme.
func (x *call) authorized(key string) bool {
	scheme, token, _ := strings.Cut(x.req.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "Bearer") && token == key
}

func (x *call) notAllowed(allow string) error {
	h := jsonHead
	h.status, h.extra = 405, [][2]string{{"allow", allow}}
	return x.whole(&h, []byte(vllmError("Method Not Allowed", "Method Not Allowed", "", 405)))
}

// ok is the empty 200 of /health.
func (x *call) ok() error { return x.whole(&head{status: 200}, nil) }

func (x *call) version() error {
	h := jsonHead
	return x.whole(&h, []byte(`{"version":"0.33.0"}`))
}

// serverLoad is /load: generation requests in progress, waiting ones included.
func (x *call) serverLoad() error {
	h := jsonHead
	return x.whole(&h, append(strconv.AppendInt([]byte(`{"server_load":`), x.e.open.Load(), 10), '}'))
}

func (x *call) models() error {
	b := []byte(`{"object":"list","data":[`)
	created := x.e.started.Unix()
	for i, name := range x.e.opt.Models {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"id":`...)
		b = appendString(b, name)
		b = append(b, `,"object":"model","created":`...)
		b = strconv.AppendInt(b, created, 10)
		b = append(b, `,"owned_by":"vllm","root":`...)
		b = appendString(b, name)
		b = append(b, `,"parent":null,"max_model_len":`...)
		b = strconv.AppendInt(b, int64(x.e.opt.MaxModelLen), 10)
		b = append(b, `,"permission":[{"id":"modelperm-`...)
		b = strconv.AppendUint(b, textSeed([]byte(name)), 16)
		b = append(b, `","object":"model_permission","created":`...)
		b = strconv.AppendInt(b, created, 10)
		b = append(b, `,"allow_create_engine":false,"allow_sampling":true,"allow_logprobs":true,`+
			`"allow_search_indices":false,"allow_view":true,"allow_fine_tuning":false,"organization":"*",`+
			`"group":null,"is_blocking":false}]}`...)
	}
	h := jsonHead
	return x.whole(&h, append(b, "]}"...))
}
