package app_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// modelAttacks are bodies by which a key that may use mock-model tries to have
// secret-model, whose alias is secret-alias. MSG is a conversation.
var modelAttacks = []struct {
	name, body string
	status     int
	code       string
}{
	{"its own", `{"model":"mock-model",MSG}`, 200, ""},
	{"its own by an escape", `{"mod\u0065l":"mock\u002dmodel",MSG}`, 200, ""},
	{"another's deeper down", `{"model":"mock-model","metadata":{"model":"secret-model"},MSG}`, 200, ""},

	{"by its name", `{"model":"secret-model",MSG}`, 404, "model_not_found"},
	{"by its alias", `{"model":"secret-alias",MSG}`, 404, "model_not_found"},
	{"its own by an alias that is not allowed", `{"model":"alias",MSG}`, 404, "model_not_found"},
	{"its own in capitals", `{"model":"MOCK-MODEL",MSG}`, 404, "model_not_found"},
	{"in capitals", `{"model":"Secret-Model",MSG}`, 404, "model_not_found"},
	{"by an escape", `{"model":"\u0073ecret-model",MSG}`, 404, "model_not_found"},
	{"by an escape in the name", `{"\u006dodel":"secret-model",MSG}`, 404, "model_not_found"},
	{"a pattern", `{"model":"*",MSG}`, 404, "model_not_found"},
	{"a list in a string", `{"model":"mock-model,secret-model",MSG}`, 404, "model_not_found"},
	{"a path", `{"model":"mock-model/../secret-model",MSG}`, 404, "model_not_found"},
	{"an adapter", `{"model":"mock-model:secret",MSG}`, 404, "model_not_found"},
	{"a NUL behind", `{"model":"mock-model\u0000secret-model",MSG}`, 404, "model_not_found"},
	{"a blank behind", `{"model":"mock-model ",MSG}`, 404, "model_not_found"},
	{"a letter that looks alike", `{"model":"mоck-model",MSG}`, 404, "model_not_found"},

	{"none", `{MSG}`, 403, "model_required"},
	{"empty", `{"model":"",MSG}`, 403, "model_required"},
	{"null", `{"model":null,MSG}`, 403, "model_required"},

	{"twice, its own first", `{"model":"mock-model","model":"secret-model",MSG}`, 400, "invalid_request"},
	{"twice, its own last", `{"model":"secret-model","model":"mock-model",MSG}`, 400, "invalid_request"},
	{"twice, by an escape", `{"model":"mock-model","\u006dodel":"secret-model",MSG}`, 400, "invalid_request"},
	{"twice, by another case", `{"model":"mock-model","Model":"secret-model",MSG}`, 400, "invalid_request"},
	{"twice, the same", `{"model":"mock-model","model":"mock-model",MSG}`, 400, "invalid_request"},
	{"a list", `{"model":["mock-model","secret-model"],MSG}`, 400, "invalid_request"},
	{"an object", `{"model":{"name":"secret-model"},MSG}`, 400, "invalid_request"},
	{"a second object", `{"model":"mock-model",MSG}{"model":"secret-model",MSG}`, 400, "invalid_request"},
	{"a byte order mark", "\ufeff" + `{"model":"mock-model",MSG}`, 400, "invalid_request"},
	{"a comment", `{"model":"mock-model"/*,*/,MSG}`, 400, "invalid_request"},
	{"invalid UTF-8", "{\"model\":\"mock-model\",\"mod\xc1\xa5l\":\"secret-model\",MSG}", 400, "invalid_request"},
	{"a lone surrogate", `{"model":"mock-model\ud800",MSG}`, 400, "invalid_request"},
	{"a list around", `[{"model":"mock-model",MSG}]`, 400, "invalid_request"},
}

const attackMessages = `"messages":[{"role":"user","content":"hi"}],"max_tokens":4`

// TestAttackModels: a key with a list of models has these and no others, and cannot
// tell another that there is from one that there is not.
func TestAttackModels(t *testing.T) {
	leavesNothing(t)
	s := startAttacked(t, "")
	mallory := attackBearer + attackMallory
	for _, w := range modelAttacks {
		t.Run(w.name, func(t *testing.T) {
			for _, path := range []string{chatPath, chatPath + "?model=secret-model", "/v1/messages"} {
				resp, body, asked := s.try(t, post(path, strings.Replace(w.body, "MSG", attackMessages, -1), mallory, "X-Model: secret-model"))
				if resp.StatusCode != w.status || path == chatPath && w.code != "" && !hasCode(body, w.code) || asked != map[bool]int{true: 1}[w.status == 200] {
					t.Errorf("%s: %d %s, want %d %s; the engine was asked %d times", path, resp.StatusCode, body, w.status, w.code, asked)
				}
			}
		})
	}
	for _, row := range s.engine.Ledger() {
		if row.Model != "mock-model" || strings.Contains(row.Path, "secret") {
			t.Errorf("the engine was asked for %q at %s", row.Model, row.Path)
		}
	}
	normal := func(model string) string {
		resp, body, _ := s.try(t, post(chatPath, `{"model":"`+model+`",`+attackMessages+`}`, mallory))
		return itoa(resp.StatusCode) + strings.ReplaceAll(body, model, "MODEL")
	}
	if there, not := normal("secret-model"), normal("nobody-model"); there != not {
		t.Errorf("a model that there is: %s, one that there is not: %s", there, not)
	}
	for path, status := range map[string]int{"/v1/models/mock-model": 200, "/v1/models/alias": 404, "/v1/models/secret-model": 404, "/v1/models/secret%2Dmodel": 404, "/v1/models/secret-alias": 404} {
		if resp, body, _ := s.try(t, "GET "+path+" HTTP/1.1\r\nHost: gateway\r\n"+mallory+"\r\n\r\n"); resp.StatusCode != status {
			t.Errorf("%s: %d %s", path, resp.StatusCode, body)
		}
	}
	if _, body, _ := s.try(t, "GET /v1/models HTTP/1.1\r\nHost: gateway\r\n"+mallory+"\r\n\r\n"); strings.Contains(body, "secret") || !strings.Contains(body, `"mock-model"`) {
		t.Errorf("the list of models: %s", body)
	}
	quiet(t, s.Gateway)
}

// TestAttackModelsOfEverySurface: no surface forgets to ask whether the key may.
func TestAttackModelsOfEverySurface(t *testing.T) {
	leavesNothing(t)
	s := startAttacked(t, "")
	for _, row := range apiRows(t) {
		if row.stored {
			continue
		}
		want := map[string]int{"secret-model": 404, "secret-alias": 404, "": 403}
		if !row.hasModel() {
			want = map[string]int{"": 403}
		}
		for model, status := range want {
			for _, last := range []bool{false, true} {
				head, body := row.request(t, "", apiAsk{model: model, modelLast: last})
				resp, answer, asked := s.try(t, head+attackBearer+attackMallory+"\r\nContent-Length: "+itoa(len(body))+"\r\n\r\n"+body)
				if resp.StatusCode != status || asked != 0 {
					t.Errorf("%s for %q: %d %s, want %d; the engine was asked %d times", row.name(), model, resp.StatusCode, answer, status, asked)
				}
			}
		}
	}
	field := func(head, value string) string {
		return "--frontier\r\nContent-Disposition: form-data; " + head + "\r\n\r\n" + value + "\r\n"
	}
	_, form, _ := strings.Cut((&upload{size: 100}).request(t, "mock-model"), "\r\n\r\n")
	for head, status := range map[string]int{
		`name="model"`: 400, `name="model"; filename="m"`: 400, `name="x"; name="model"`: 400, `name=model`: 400, `name="mod\el"`: 400,
		`name="Model"`: 200, // another field to every reader of forms
	} {
		body := field(head, "secret-model") + form
		raw := strings.Replace((&upload{}).head(int64(len(body))), "\r\n\r\n", "\r\n"+attackBearer+attackMallory+"\r\n\r\n", 1) + body
		if resp, answer, asked := s.try(t, raw); resp.StatusCode != status || asked != map[bool]int{true: 1}[status == 200] {
			t.Errorf("a second model, %s: %d %s", head, resp.StatusCode, answer)
		}
	}
	for _, row := range s.engine.Ledger() {
		if row.Model != "mock-model" {
			t.Errorf("the engine was asked for %q", row.Model)
		}
	}
	quiet(t, s.Gateway)
}

// responseAttacks are ways to have another's response, whose id stands for ID.
var responseAttacks = []struct {
	name, method, path, body string
	status                   int
}{
	{"continues it", "POST", "", `{"model":"mock-model","input":"and?","previous_response_id":"ID"}`, 404},
	{"streams on", "POST", "", `{"model":"mock-model","input":"and?","previous_response_id":"ID","stream":true}`, 404},
	{"by an escape", "POST", "", `{"model":"mock-model","input":"and?","previous_respons\u0065_id":"ID"}`, 404},
	{"by an escape in the id", "POST", "", `{"model":"mock-model","input":"and?","previous_response_id":"\u0072TAIL"}`, 404},
	{"twice", "POST", "", `{"model":"mock-model","input":"and?","previous_response_id":null,"previous_response_id":"ID"}`, 400},
	{"in another case", "POST", "", `{"model":"mock-model","input":"and?","Previous_Response_Id":"ID"}`, 400},
	{"gets it", "GET", "/ID", "", 404},
	{"gets it as a stream", "GET", "/ID?stream=true", "", 404},
	{"gets its input", "GET", "/ID/input_items", "", 404},
	{"gets it by an escape", "GET", "/%72TAIL", "", 404},
	{"gets it by another path", "GET", "/x/../ID", "", 404},
	{"gets it by a parameter", "GET", "/ID;x", "", 404},
	{"cancels it", "POST", "/ID/cancel", "", 404},
	{"deletes it", "DELETE", "/ID", "", 404},
	{"heads it", "HEAD", "/ID", "", 405},
}

// TestAttackResponses: a response is its key's. To every other it does not exist,
// and no engine is asked.
func TestAttackResponses(t *testing.T) {
	leavesNothing(t)
	s := startAttacked(t, "")
	for _, more := range []string{"", `,"stream":true`, `,"background":true,"mock_prefill_ms":3600000`} {
		t.Run("made with "+more, func(t *testing.T) {
			resp, body, _ := s.try(t, post(responsesURL, `{"model":"mock-model","input":"hi","max_output_tokens":3`+more+`}`, attackBearer+attackVictim))
			id := between(body, `"id":"`, `"`)
			if resp.StatusCode != 200 || !strings.HasPrefix(id, "resp_") {
				t.Fatalf("%d %s", resp.StatusCode, body)
			}
			fill := strings.NewReplacer("ID", id, "TAIL", id[1:])
			for _, w := range responseAttacks {
				for _, key := range []string{attackMallory, s.made} {
					raw := strings.Replace(post(responsesURL+fill.Replace(w.path), fill.Replace(w.body), attackBearer+key), "POST", w.method, 1)
					resp, body, asked := s.try(t, raw)
					if resp.StatusCode != w.status || asked != 0 {
						t.Errorf("%s %s: %d %s, want %d; the engine was asked %d times", key, w.name, resp.StatusCode, body, w.status, asked)
					}
				}
			}
			own := "GET " + responsesURL + "/" + id + " HTTP/1.1\r\nHost: gateway\r\n" + attackBearer + attackVictim + "\r\n\r\n"
			if resp, body, _ := s.try(t, own); resp.StatusCode != 200 || !strings.Contains(body, id) || strings.Contains(body, `"cancelled"`) {
				t.Errorf("whose it is gets %d %s", resp.StatusCode, body)
			}
		})
	}
	quiet(t, s.Gateway)
}

// TestAttackDefaultsBind: a key that has no lists of its own has those of
// auth.defaults, made at run time or not.
func TestAttackDefaultsBind(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{Models: []string{"mock-model", "secret-model"}})
	g := apptest.Start(t, fmt.Sprintf(`data_dir: %q
admin: {token: %s}
auth: {defaults: {allowed_models: [mock-*], allowed_ips: [127.0.0.0/8]}}
api_keys:
  - {key: %s}
  - {key: %s, allowed_models: [], allowed_ips: [10.0.0.0/8]}
`, t.TempDir(), attackToken, attackMallory, attackVictim), e)
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	ask := func(path, key, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), "POST", g.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return readAnswer(resp)
	}
	keys := []string{attackMallory}
	for _, body := range []string{`{"name":"plain"}`, `{"name":"nulls","allowed_models":null,"allowed_ips":null}`} {
		status, answer := ask("/admin/api-keys", attackToken, body)
		if status != 201 {
			t.Fatalf("%d %s", status, answer)
		}
		keys = append(keys, between(answer, `"key":"`, `"`))
	}
	for _, key := range keys {
		if status, answer := ask(chatPath, key, wholeChat); status != 200 {
			t.Errorf("%d %s", status, answer)
		}
		if status, answer := ask(chatPath, key, strings.Replace(wholeChat, "mock-model", "secret-model", 1)); status != 404 {
			t.Errorf("%d %s", status, answer)
		}
	}
	if status, answer := ask(chatPath, attackVictim, wholeChat); status != 403 || !hasCode(answer, "ip_not_authorized") {
		t.Errorf("from elsewhere: %d %s", status, answer)
	}
	if n := len(posts(e)); n != len(keys) {
		t.Errorf("the engine was asked %d times", n)
	}
	client.CloseIdleConnections()
	quiet(t, g)
}
