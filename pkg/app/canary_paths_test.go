package app_test

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

const (
	canaryWords = `"messages":[{"role":"user","content":"` + canaryPrompt + `"}],"max_tokens":4`
	canaryChat  = `{"model":"mock-model",` + canaryWords + `}`
)

// TestCanaryKeys: keys, tokens and prompts go every way that there is through the
// gateway, and none of it is written down, told or passed on.
func TestCanaryKeys(t *testing.T) {
	leavesNothing(t)
	a := startAviary(t)
	for _, key := range a.opening {
		a.serveAll(key)
	}
	a.refuseAll()
	a.limitAll()
	a.failAll(a.opening[2])
	a.operate()
	a.disappoint()
	a.Close()
	a.silentEverywhere()
	for _, word := range []string{"a test's", "action=create_key", "not taken over", "put aside"} {
		if !strings.Contains(a.logs.String(), word) {
			t.Errorf("the log has no %s: nothing is shown\n%s", word, a.logs.String())
		}
	}
}

// TestCanaryKeyInPlaceOfItsID: who takes a key for the key's id has written it into a
// path, and finds it neither in the answer nor in a log.
func TestCanaryKeyInPlaceOfItsID(t *testing.T) {
	leavesNothing(t)
	a := startAviary(t)
	for _, line := range []string{"GET /admin/api-keys/KEY", "DELETE /admin/api-keys/KEY", "PATCH /admin/api-keys/KEY", "POST /admin/api-keys/KEY/reset-quota"} {
		raw := strings.Replace(a.command(line, "{}"), "KEY", a.opening[1], 1)
		if answer := a.answered(line, a.whisper(raw)); !strings.HasPrefix(answer, "HTTP/1.1 404 ") {
			t.Errorf("%s: %s", line, answer)
		}
	}
	a.serveAll(canaryPlain)
	a.Close()
	a.silentEverywhere()
}

// serveAll asks for all that is answered.
func (a *aviary) serveAll(key string) {
	a.t.Helper()
	form := "--frontier\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nmock-model\r\n" +
		"--frontier\r\nContent-Disposition: form-data; name=\"prompt\"\r\n\r\n" + canaryPrompt + "\r\n" +
		"--frontier\r\nContent-Disposition: form-data; name=\"file\"; filename=\"" + canaryPrompt + ".wav\"\r\n\r\n" + canaryPrompt + "\r\n--frontier--\r\n"
	for _, raw := range []string{
		post(chatPath, canaryChat, attackBearer+key),
		post(chatPath, `{"model":"mock-model","stream":true,`+canaryWords+`}`, "X-Api-Key: "+key),
		post(chatPath, `{"model":"mock-model","stream":true,"stream_options":{"include_usage":true},`+canaryWords+`}`, "api-key: "+key),
		post(chatPath+"?api_key="+key, canaryChat, attackBearer+key, "Cookie: key="+key, "Referer: https://a.example/?key="+key, "User-Agent: "+key),
		post("/v1/messages", canaryChat, "x-api-key: "+key),
		post("/v1/messages", `{"model":"mock-model","stream":true,`+canaryWords+`}`, "x-api-key: "+key),
		post("/v1/completions", `{"model":"mock-model","max_tokens":4,"prompt":"`+canaryPrompt+`","user":"`+canaryPrompt+`"}`, attackBearer+key),
		post("/v1/embeddings", `{"model":"mock-model","input":"`+canaryPrompt+`"}`, attackBearer+key),
		post("/v1/responses", `{"model":"mock-model","max_output_tokens":4,"input":"`+canaryPrompt+`"}`, attackBearer+key),
		strings.Replace((&upload{}).head(int64(len(form))), "\r\n\r\n", "\r\n"+attackBearer+key+"\r\n\r\n", 1) + form,
		"GET /v1/models HTTP/1.1\r\nHost: g\r\n" + attackBearer + key + "\r\n\r\n",
		"GET /v1/usage?key=" + key + " HTTP/1.1\r\nHost: g\r\n" + attackBearer + key + "\r\n\r\n",
	} {
		line, _, _ := strings.Cut(raw, "\r\n")
		answer := a.whisper(raw)
		a.answered(strings.ReplaceAll(line, key, "KEY"), answer)
		if !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
			a.t.Errorf("%s: %s", line, answer)
		}
	}
}

// refuseAll asks for what is refused.
func (a *aviary) refuseAll() {
	a.t.Helper()
	raws := []string{
		post(chatPath, canaryChat, attackBearer+canaryOff),
		post(chatPath, canaryChat, attackBearer+canaryBound),
		post(chatPath, canaryChat, attackBearer+canaryPlain[:len(canaryPlain)-1]),
		post(chatPath, canaryChat, attackBearer+a.opening[1][:len(a.opening[1])-1]+"_"),
		post(chatPath, canaryChat, attackBearer+a.opening[1][:len(a.opening[1])-2]+"00"),
		post(chatPath, canaryChat, attackBearer+canaryToken),
		post(chatPath, canaryChat, attackBearer+canaryPlain, "X-Api-Key: "+a.opening[1]),
		post(chatPath, canaryChat, attackBearer+canaryPlain, attackBearer+canaryPlain),
		post(chatPath, canaryChat, "Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte(canaryPlain+":"))),
		post(chatPath, canaryChat, attackBearer+canaryPlain+"\x00"),
		post(chatPath, canaryChat, attackBearer+strings.Repeat(canaryPlain, 3000)),
		post(chatPath+"?key="+canaryPlain+"&api_key="+canaryToken, canaryChat),
		post(chatPath, canaryChat+canaryPrompt, attackBearer+canaryPlain),
		post(chatPath, strings.Replace(canaryChat, `"max_tokens":4`, `"max_tokens":"`+canaryPrompt+`"`, 1), attackBearer+canaryPlain),
		post(chatPath, strings.Replace(canaryChat, `"max_tokens":4`, `"stream":"`+canaryPrompt+`"`, 1), attackBearer+canaryPlain),
		post(chatPath, strings.Replace(canaryChat, `"mock-model"`, `["`+canaryPrompt+`"]`, 1), attackBearer+canaryPlain),
		post(chatPath, strings.Replace(canaryChat, `"max_tokens":4`, canaryPrompt, 1), attackBearer+canaryPlain),
		post(chatPath, strings.Replace(canaryChat, `"}]`, `\x"}]`, 1), attackBearer+canaryPlain),
		post(chatPath, canaryChat[:len(canaryChat)-20], attackBearer+canaryPlain),
		post(chatPath, strings.Replace(canaryChat, "mock-model", "none", 1), attackBearer+canaryPlain),
		post(chatPath, strings.Replace(canaryChat, `"max_tokens"`, `"model":"x","max_tokens"`, 1), attackBearer+canaryPlain),
		post("/v1/nothing?key="+canaryPlain, canaryChat, attackBearer+canaryPlain),
		post("/v1/models", canaryChat, attackBearer+canaryPlain),
		post("/v1/messages", strings.Replace(canaryChat, "mock-model", "none", 1), "X-Api-Key: "+canaryPlain),
		post("/v1/responses", `{"model":"mock-model","input":"`+canaryPrompt+`","previous_response_id":"resp_none"}`, attackBearer+canaryPlain),
		post(uploadPath, canaryChat, attackBearer+canaryPlain),
		(&upload{}).head(40) + "--frontier\r\n" + canaryPrompt[:28],
		strings.Replace((&upload{}).head(60), "\r\n\r\n", "\r\n"+attackBearer+canaryPlain+"\r\n\r\n", 1) + "--frontier\r\n" + canaryPrompt[:48],
		strings.Replace(post(chatPath, "", attackBearer+canaryPlain), "Content-Length: 0", "Content-Length: 2000000", 1) + canaryPrompt,
		strings.Replace(post(chatPath, "", attackBearer+canaryOff), "Content-Length: 0", "Content-Length: 20000", 1) + canaryPrompt,
		strings.Replace(post(chatPath, canaryChat, attackBearer+canaryPlain), "Content-Type: application/json", "Content-Type: text/plain; x="+canaryPlain, 1),
		"GET " + canaryPlain + " HTTP/1.1\r\n" + attackBearer + canaryPlain + "\r\n\r\n",
		"GET /v1/models HTTP/1.1\r\nHost: g\r\n" + attackBearer + canaryPlain + "\r\nAuthorization\r\n\r\n",
		"GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization : Bearer " + canaryPlain + "\r\n\r\n",
		canaryPlain + "\r\n\r\n",
		"GET /admin/api-keys HTTP/1.1\r\nHost: g\r\n" + attackBearer + canaryToken + "\r\nAuthorization\r\n\r\n",
		"GET /admin/api-keys HTTP/1.1\r\nHost: g\r\nAuthorization : Bearer " + canaryToken + "\r\n\r\n",
		"GET /admin/api-keys HTTP/1.1\r\n" + attackBearer + strings.Repeat(canaryToken, 2000) + "\r\n\r\n",
	}
	for _, raw := range raws {
		line, _, _ := strings.Cut(raw, "\r\n")
		if answer := a.answered(line, a.whisper(raw)); strings.HasPrefix(answer, "HTTP/1.1 2") {
			a.t.Errorf("%.300q: %s", raw, answer)
		}
	}
}

// limitAll comes to the end of every limit of a key.
func (a *aviary) limitAll() {
	a.t.Helper()
	for _, w := range []struct{ key, tokens, want string }{
		{canaryMeagre, "5000", ""},
		{canaryMeagre, "2000", "tokens_per_minute"},
		{canaryMeagre, "1", ""},
		{canaryMeagre, "1", ""},
		{canaryMeagre, "1", "requests_per_minute"},
		{canaryPoor, "9", ""},
		{canaryPoor, "9", "total_quota"},
	} {
		answer := a.say(post(chatPath, strings.Replace(canaryChat, `"max_tokens":4`, `"mock_tokens":12,"max_tokens":`+w.tokens, 1), attackBearer+w.key))
		if limit := between(answer, `"param":"`, `"`); limit != w.want {
			a.t.Errorf("the limit is %q, want %q: %s", limit, w.want, answer)
		}
	}
	a.say(post(chatPath, strings.Replace(canaryChat, "mock-model", "secret-model", 1), attackBearer+canaryMeagre))
	a.say(post(chatPath, strings.Replace(canaryChat, `"model":"mock-model",`, "", 1), attackBearer+canaryMeagre))
}

// failAll meets every fault of an engine, a panic before and in the answer, and
// clients that leave.
func (a *aviary) failAll(key string) {
	a.t.Helper()
	for _, fault := range injected {
		name, _, _ := strings.Cut(fault, "=")
		if name == "hang" || name == "die" || name == "refuse" || name == "stall" || strings.HasPrefix(name, "slow") {
			continue // they take time, or all that comes later
		}
		for _, stream := range []string{"false", "true"} {
			if err := a.engine.Fault(mockvllm.FaultRule{Fault: fault, Path: chatPath}); err != nil {
				a.t.Fatal(err)
			}
			a.say(post(chatPath, `{"model":"mock-model","stream":`+stream+`,`+canaryWords+`}`, attackBearer+key))
			a.engine.ClearFaults()
		}
	}
	a.panics.Store(true)
	for a.panics.Load() { // a connection may be left from before
		a.say(post(chatPath, canaryChat, attackBearer+key, "X-Request-Id: fresh"))
		a.closeIdle()
	}
	c := dialFrom(a.t, a.addr, "127.4.250.1")
	c.send(post(chatPath, `{"model":"mock-model","stream":true,"mock_prefill_ms":3600000,`+canaryWords+`}`, attackBearer+key))
	apptest.Eventually(a.t, "the engine works", func() bool { running, _, _ := a.engine.Load(); return running > 0 })
	c.Close()
	apptest.Eventually(a.t, "the engine rests", func() bool { running, _, _ := a.engine.Load(); return running == 0 })
}

// closeIdle makes the next request need a new connection to the engine.
func (a *aviary) closeIdle() {
	a.t.Helper()
	if err := a.engine.Fault(mockvllm.FaultRule{Fault: "close-idle", Path: chatPath, Count: 1}); err != nil {
		a.t.Fatal(err)
	}
	a.say(post(chatPath, canaryChat, attackBearer+a.opening[0]))
}

// operate does what operators do, and their mistakes.
func (a *aviary) operate() {
	a.t.Helper()
	list := a.say(a.command("GET /admin/api-keys", ""))
	id := keyID(a.opening[1])
	if !strings.Contains(list, id) {
		a.t.Fatalf("no %s in %s", id, list)
	}
	for _, w := range []struct{ line, body, status string }{
		{"GET /admin/api-keys/" + id, "", "200"},
		{"PATCH /admin/api-keys/" + id, `{"user_id":"u","requests_per_minute":1000}`, "200"},
		{"POST /admin/api-keys/" + id + "/reset-quota", "", "200"},
		{"GET /admin/backends", "", "200"},
		{"POST /admin/backends/e0/drain", "", "200"},
		{"POST /admin/backends/e0/undrain", "", "200"},
		{"GET /admin/config", "", "200"},
		{"POST /admin/reload", "", "200"},
		{"PATCH /admin/api-keys/" + keyID(canaryPlain), `{"user_id":"u"}`, "409"},
		{"POST /admin/api-keys", `{"key":"` + canaryPlain + `"}`, "400"},
		{"POST /admin/api-keys", `{"name":"x","key_hash":"` + canaryPlain + `"}`, "400"},
		{"POST /admin/api-keys", `{"name":"x","status":"` + canaryPlain + `"}`, "400"},
		{"POST /admin/api-keys", `{"name":"x","expires_at":"` + canaryPlain + `"}`, "400"},
		{"POST /admin/api-keys", `{"name":"x","total_quota":"` + canaryPlain + `"}`, "400"},
		{"POST /admin/api-keys", `{"name":"x","metadata":"` + canaryPlain + `"}`, "400"},
		{"POST /admin/api-keys", `{"name":"x","allowed_ips":["` + canaryPlain + `"]}`, "400"},
		{"POST /admin/api-keys", `{"name":"x","key":` + canaryPlain + `}`, "400"},
		{"POST /admin/api-keys", canaryPlain, "400"},
		{"GET /admin/api-keys?key=" + canaryPlain, "", "400"},
		{"GET /admin/api-keys?after=" + canaryPlain, "", "400"},
		{"DELETE /admin/api-keys/" + id, "", "204"},
	} {
		answer := a.answered(strings.ReplaceAll(w.line, canaryPlain, "KEY"), a.whisper(a.command(w.line, w.body)))
		if !strings.HasPrefix(answer, "HTTP/1.1 "+w.status) {
			a.t.Errorf("%s %s: %s", w.line, w.body, answer)
		}
	}
	a.say(adminRequest("GET /admin/config", "", attackBearer+canaryPlain))
	a.say(adminRequest("GET /admin/config?token="+canaryToken, "", attackBearer+canaryToken+"x"))
	for _, spoilt := range spoiltFiles(a.yaml()) {
		writeFile(a.t, a.file, spoilt)
		if answer := a.say(a.command("POST /admin/reload", "")); !strings.HasPrefix(answer, "HTTP/1.1 422 ") {
			a.t.Errorf("a spoilt file was taken: %s\n%s", answer, spoilt)
		}
	}
	writeFile(a.t, a.file, a.yaml())
	a.spoilKeys()
}

// spoilKeys writes keys in plain into the keys file, where they do not belong.
func (a *aviary) spoilKeys() {
	a.t.Helper()
	file := filepath.Join(a.dir, "keys.json")
	good, err := os.ReadFile(file)
	if err != nil {
		a.t.Fatal(err)
	}
	hash := between(string(good), `"key_hash": "`, `"`)
	for old, wrong := range map[string]string{
		`"` + hash + `"`:              `"` + canaryPlain + `"`,
		`"key_hash": "` + hash + `"`:  `"key": "` + canaryPlain + `"`,
		`"key_hash": "` + hash + `",`: `"key_hash": ` + canaryPlain + `,`,
		`"` + hash + `",`:             `"sha256:` + canaryPlain + `",`,
		`"status": "active"`:          `"status": "` + canaryPlain + `"`,
		`{`:                           canaryPlain + `{`,
	} {
		if !strings.Contains(string(good), old) {
			a.t.Fatalf("no %s in %s", old, good)
		}
		before := strings.Count(a.logs.String(), "keys file was not taken over")
		writeFile(a.t, file, strings.Replace(string(good), old, wrong, 1))
		apptest.Eventually(a.t, "the file is refused", func() bool {
			return strings.Count(a.logs.String(), "keys file was not taken over") > before
		})
		code, output := run(a.t, "keys", "list", "-data", a.dir)
		if code == 0 {
			a.t.Errorf("a spoilt keys file is listed: %s", output)
		}
		a.answered("keys list", output)
	}
	writeFile(a.t, file, string(good))
}

// disappoint has the usage hook refuse what it is sent, so that it is put aside.
func (a *aviary) disappoint() {
	a.t.Helper()
	for _, status := range []int64{http.StatusServiceUnavailable, http.StatusBadRequest} {
		a.hookStatus.Store(status)
		a.say(post(chatPath, canaryChat, attackBearer+canaryPlain))
	}
	apptest.Eventually(a.t, "there is a dead letter", func() bool { return strings.Contains(a.logs.String(), "put aside") })
	a.hookStatus.Store(http.StatusOK)
	if _, err := os.Stat(a.dir); errors.Is(err, fs.ErrNotExist) {
		a.t.Error("no data directory")
	}
}

// keyID is the id of a key.
func keyID(key string) string {
	hash := auth.Hash(key)
	return auth.ID(hash[:8]).String()
}
