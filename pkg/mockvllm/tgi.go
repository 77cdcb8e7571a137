package mockvllm

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// tgiPost are TGI's paths that generate.
var tgiPost = map[string]func(*call, *params) error{
	"/":                    (*call).tgiCompat,
	"/invocations":         (*call).tgiCompat,
	"/generate":            func(x *call, p *params) error { return x.tgiGenerate(p, false, false) },
	"/generate_stream":     func(x *call, p *params) error { return x.tgiGenerate(p, true, false) },
	"/v1/chat/completions": (*call).tgiChat,
	"/v1/completions":      (*call).tgiCompletion,
}

var tgiGet = map[string]func(*call) error{
	"/":          (*call).tgiOK,
	"/health":    (*call).tgiOK,
	"/ping":      (*call).tgiOK,
	"/info":      (*call).tgiInfo,
	"/v1/models": (*call).tgiModels,
	"/metrics":   (*call).metrics,
}

func (x *call) routeTGI() error {
	path, method := x.req.URL.Path, x.req.Method
	post, get := tgiPost[path], tgiGet[path]
	switch {
	case post == nil && get == nil:
		return x.whole(tgiHead(404, ""), nil)
	case get != nil && (method == "GET" || method == "HEAD"):
		return get(x)
	case post == nil || method != "POST":
		h := tgiHead(405, "")
		h.extra = append(h.extra, [2]string{"allow", map[bool]string{true: "GET,HEAD", false: "POST"}[post == nil]})
		return x.whole(h, nil)
	case x.e.opt.APIKey != "" && !x.authorized(x.e.opt.APIKey):
		return x.whole(tgiHead(401, ""), nil)
	}
	kind, _, _ := strings.Cut(x.req.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "application/json") {
		return x.tgiText(415, "Expected request with `Content-Type: application/json`")
	}
	p, bad := parseParams(x.body)
	if bad != nil {
		return x.tgiText(400, "Failed to parse the request body as JSON: expected value at line 1 column 1")
	}
	x.set(func(r *Entry) { r.Model = p.text("model") })
	return post(x, p)
}

// tgiHead is the head of an answer by axum, with TGI's CORS layer.
func tgiHead(status int, contentType string) *head {
	return &head{status: status, contentType: contentType, extra: [][2]string{
		{"vary", "origin, access-control-request-method, access-control-request-headers"},
		{"access-control-allow-origin", "*"},
	}}
}

func (x *call) tgiOK() error { return x.whole(tgiHead(200, ""), nil) }

func (x *call) tgiText(status int, text string) error {
	return x.whole(tgiHead(status, "text/plain; charset=utf-8"), []byte(text))
}

func tgiErrorBody(text, kind string) []byte {
	b := appendString([]byte(`{"error":`), text)
	b = appendString(append(b, `,"error_type":`...), kind)
	return append(b, '}')
}

// tgiInvalid is a 422: of axum for a wrong type, of TGI for a wrong value.
func (x *call) tgiInvalid(p *params, text string) error {
	if p.err != nil {
		return x.tgiText(422, "Failed to deserialize the JSON body into the target type")
	}
	return x.whole(tgiHead(422, "application/json"), tgiErrorBody("Input validation error: "+text, "validation"))
}

// tgiEnter takes one of the permits; leave gives it back. Without one, a whole
// answer is a 429 and a stream, whose head is out by then, one error event.
func (x *call) tgiEnter(stream bool) (leave func(), err error) {
	leave = func() { x.e.open.Add(-1) }
	x.fault.instead = x.fault.is("429")
	if x.e.open.Add(1) <= int64(x.e.opt.MaxConcurrent) && !x.fault.instead {
		return leave, nil
	}
	leave()
	x.set(func(r *Entry) { r.Stream = stream })
	if !stream {
		err = x.whole(tgiHead(429, "application/json"), tgiErrorBody("Model is overloaded", "overloaded"))
	} else {
		err = x.tgiOverloadEvent()
	}
	if err == nil {
		err = errFailed
	}
	return nil, err
}

func (x *call) tgiOverloadEvent() error {
	out, err := x.tgiOpen()
	if err != nil {
		return err
	}
	data := []byte(`{"error":{"message":"Model is overloaded","http_status_code":422}}`)
	if x.native {
		data = tgiErrorBody("Model is overloaded", "overloaded")
	}
	if err := out.emit(data); err != nil {
		return err
	}
	return out.close(!x.native)
}

// tgiOpen starts a stream as axum does.
func (x *call) tgiOpen() (*sse, error) {
	h := tgiHead(200, "text/event-stream")
	h.extra = append([][2]string{
		{"cache-control", "no-cache"},
		{"x-compute-type", "cpu"},
		{"x-compute-characters", strconv.Itoa(len(x.body))},
		{"x-accel-buffering", "no"},
	}, h.extra...)
	return x.open(h)
}

func tgiFailure(x *call) ([]byte, bool) {
	const text = "Request failed during generation: Server error: unknown"
	if x.native {
		return tgiErrorBody(text, "generation"), false
	}
	return []byte(`{"error":{"message":"` + text + `","http_status_code":422}}`), true
}

// tgiTimes are the headers of a whole answer.
func (g *generation) tgiTimes(h *head) {
	row := g.x.e.sched.progress(g.x.seqs)
	total, queued, run := time.Since(g.x.arrived), row.scheduled.Sub(g.x.arrived), time.Since(row.scheduled)
	ms := func(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }
	h.extra = append([][2]string{
		{"x-compute-type", "cpu"},
		{"x-compute-time", strconv.FormatFloat(total.Seconds(), 'f', -1, 64)},
		{"x-compute-characters", strconv.Itoa(len(g.x.body))},
		{"x-total-time", ms(total)},
		{"x-validation-time", "0"},
		{"x-queue-time", ms(queued)},
		{"x-inference-time", ms(run)},
		{"x-time-per-token", ms(run / time.Duration(max(1, g.tokens())))},
		{"x-prompt-tokens", strconv.Itoa(g.promptTokens())},
		{"x-generated-tokens", strconv.Itoa(g.tokens())},
	}, h.extra...)
}

// tgiRun checks the prompts and queues a generation. The model is the one
// served, whatever was asked for. proceed is false when the answer is given.
func (g *generation) tgiRun(x *call, p *params, plan answerPlan) (proceed bool, err error) {
	g.id, g.model, g.n = x.id, x.e.opt.Models[0], 1
	limit := plan.limit
	if plan.natural < plan.limit {
		limit = 0
	}
	if p.err != nil {
		return false, x.tgiInvalid(p, "")
	}
	for _, pr := range g.prompts {
		if len(pr.text) == 0 {
			return false, x.tgiInvalid(p, "`inputs` cannot be empty")
		}
		if bad := x.fits(pr, limit); bad != nil {
			return false, x.tgiInvalid(p, fmt.Sprintf("`inputs` tokens + `max_new_tokens` must be <= %d. Given: %d `inputs` tokens and %d `max_new_tokens`",
				x.e.opt.MaxModelLen, pr.tokens, limit))
		}
	}
	if !g.begin(x, p, plan) {
		return false, x.ctx.Err()
	}
	return true, nil
}

func (x *call) tgiInfo() error {
	o := &x.e.opt
	b := appendString([]byte(`{"model_id":`), o.Models[0])
	b = fmt.Appendf(b, `,"model_sha":null,"model_pipeline_tag":"text-generation","max_concurrent_requests":%d,"max_best_of":2,`+
		`"max_stop_sequences":4,"max_input_tokens":%d,"max_total_tokens":%d,"validation_workers":2,"max_client_batch_size":4,`+
		`"router":"text-generation-router","version":"3.3.7","sha":null,"docker_label":null}`,
		o.MaxConcurrent, o.MaxModelLen-1, o.MaxModelLen)
	return x.whole(tgiHead(200, "application/json"), b)
}

func (x *call) tgiModels() error {
	b := appendString([]byte(`{"object":"list","data":[{"id":`), x.e.opt.Models[0])
	b = append(b, `,"object":"model","created":0,"owned_by":`...)
	b = append(appendString(b, x.e.opt.Models[0]), "}]}"...)
	return x.whole(tgiHead(200, "application/json"), b)
}
