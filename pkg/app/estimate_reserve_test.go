package app_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// stalled is a gateway whose requests wait on their way to the engine, so that it
// can be seen what was reserved for each. Nothing is learnt meanwhile.
type stalled struct {
	limitKey
	t     *testing.T
	dials atomic.Int64
}

func startStalled(t *testing.T) *stalled {
	s := &stalled{t: t}
	end := make(chan struct{})
	dial := func(context.Context, string, string) (net.Conn, error) {
		s.dials.Add(1)
		<-end
		return nil, errors.New("the test is over")
	}
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.StartWith(t, app.Options{Dial: dial}, limitConfig(t, "", ", total_quota: 1000000000"), e)
	s.limitKey = limitKeyOf(g, 0)
	t.Cleanup(func() { close(end) })
	return s
}

// reserves is how many tokens are reserved for a request.
func (s *stalled) reserves(raw string) int64 {
	s.t.Helper()
	before, dials := s.use(s.t).Quota.Reserved, s.dials.Load()
	c := dialRaw(s.t, s.addr)
	c.send(raw)
	apptest.Eventually(s.t, "the request is on its way", func() bool { return s.dials.Load() > dials })
	return s.use(s.t).Quota.Reserved - before
}

// unlearnt is what a prompt of so many bytes is reserved for, and firstGuess an answer,
// before anything is known of any.
func unlearnt(bytes int) int64 { return int64(bytes+3) / 4 }

const firstGuess = 256

// With a field that its engine does not read, a request that may generate 256 tokens,
// or 100,000, was reserved for as one that generates a single one.
func TestEstimatesAreOfTheFieldsThatTheEngineReads(t *testing.T) {
	leavesNothing(t)
	s := startStalled(t)
	chat := func(fields string) string { return fmt.Sprintf(limitChat, fields) }
	response := func(fields string) string { return `{"model":"mock-model","input":"hi",` + fields + `}` }
	completion := func(fields string) string { return `{"model":"mock-model",` + fields + `}` }
	for _, w := range []struct {
		name, path, body string
		output           int64
	}{
		{"chat", chatPath, chat(`"max_tokens":40`), 40},
		{"chat, the newer field", chatPath, chat(`"max_completion_tokens":40`), 40},
		{"chat, the newer field is null", chatPath, chat(`"max_tokens":40,"max_completion_tokens":null`), 40},
		{"chat, no limit as llama.cpp says it", chatPath, chat(`"max_tokens":-1`), firstGuess},
		{"chat, a Responses field", chatPath, chat(`"max_output_tokens":1`), firstGuess},
		{"chat, a Responses field beside its own", chatPath, chat(`"max_output_tokens":1,"max_tokens":4000`), 4000},
		{"chat, a TGI field", chatPath, chat(`"parameters":{"max_new_tokens":1}`), firstGuess},
		{"chat, a TGI field beside its own", chatPath, chat(`"max_completion_tokens":null,"max_tokens":4000,"parameters":{"max_new_tokens":1}`), 4000},
		{"messages, a Responses field", "/v1/messages", chat(`"max_output_tokens":1,"max_tokens":4000`), 4000},
		{"Responses", responsesURL, response(`"max_output_tokens":40`), 40},
		{"Responses, a chat field", responsesURL, response(`"max_tokens":1`), firstGuess},
		{"Responses, chat fields beside its own", responsesURL, response(`"max_tokens":1,"max_completion_tokens":1,"max_output_tokens":4000`), 4000},
		{"TGI", "/generate", `{"inputs":"hi","parameters":{"max_new_tokens":40}}`, 40},
		{"TGI, chat fields", "/generate", `{"inputs":"hi","max_tokens":1,"max_completion_tokens":1}`, firstGuess},
		{"TGI, a chat field beside its own", "/generate", `{"inputs":"hi","max_tokens":1,"parameters":{"max_new_tokens":4000}}`, 4000},
		{"n", chatPath, chat(`"n":128,"max_tokens":10`), 1280},
		{"n as Python writes it", chatPath, chat(`"n":128.0,"max_tokens":10`), 1280},
		{"n without a limit", chatPath, chat(`"n":3`), 3 * firstGuess},
		{"n of nothing", chatPath, chat(`"n":0,"max_tokens":10`), 10},
		{"more answers than are given", "/v1/completions", completion(`"prompt":"hi","n":2,"best_of":5,"max_tokens":10`), 50},
		{"prompts", "/v1/completions", completion(`"prompt":["a","b\",\"","c"],"max_tokens":10`), 30},
		{"prompts in tokens", "/v1/completions", completion(`"prompt":[[1,2],[3]],"max_tokens":10`), 20},
		{"one prompt in tokens", "/v1/completions", completion(`"prompt":[1,2,3],"max_tokens":10`), 10},
		{"answers to prompts", "/v1/completions", completion(`"max_tokens":10,"best_of":4.0,"n":2,"prompt":["a","b"]`), 80},
		{"chat, engines prefer one or the other", chatPath, chat(`"max_completion_tokens":1,"max_tokens":4000`), 4000},
		{"chat, llama.cpp's field goes first there", chatPath, chat(`"max_tokens":1,"n_predict":4000`), 4000},
		{"Responses, a number in quotes", responsesURL, response(`"max_output_tokens":"4000"`), 4000},
		{"n in quotes", chatPath, chat(`"n":"128","max_tokens":10`), 1280},
		{"TGI, the best of some", "/generate", `{"inputs":"hi","parameters":{"max_new_tokens":40,"best_of":4}}`, 160},
		{"SGLang", "/generate", `{"text":["a","b"],"sampling_params":{"max_new_tokens":40,"n":8}}`, 640},
		{"embeddings", "/v1/embeddings", completion(`"input":"hi","max_tokens":4000`), 0},
	} {
		t.Run(w.name, func(t *testing.T) {
			if got, want := s.reserves(s.request("POST", w.path, w.body)), unlearnt(len(w.body))+w.output; got != want {
				t.Errorf("%d tokens are reserved for %s, want %d", got, w.body, want)
			}
		})
	}
}

// A text that holds the mark of a picture was reserved for as if it were one, with
// next to nothing; and one that seemed to be a picture in a picture with less.
func TestEstimatesCountTextThatLooksLikeAPicture(t *testing.T) {
	leavesNothing(t)
	s := startStalled(t)
	text := strings.Repeat("word and another ", 1500)
	code := strings.Repeat("iVBORw0K", 3000)
	said := func(content string) string {
		return fmt.Sprintf(`{"model":"mock-model","max_tokens":5,"messages":[{"role":"user","content":%s}]}`, content)
	}
	for name, body := range map[string]string{
		"text":                        said(`"` + text + `"`),
		"marked text":                 said(`";base64,` + text + `"`),
		"a whole data URL":            said(`"data:image/png;base64,` + text + `"`),
		"code in text":                said(`"data:image/png;base64,` + code + `"`),
		"an object in text":           said(`"{\"data\":\"` + code + `\"}"`),
		"a URL in text":               said(`"\"url\":\"data:image/png;base64,` + code + `\""`),
		"text for a picture":          said(`[{"type":"image_url","image_url":{"url":"data:image/png;base64,` + text + `"}}]`),
		"text for data":               said(`[{"type":"input_audio","input_audio":{"data":"` + text + `"}}]`),
		"a picture that is one twice": `{"x":{"data":"` + strings.Repeat("y", 100) + `;base64,` + strings.Repeat("A", 60000) + `"},` + said(`"hi"`)[1:],
	} {
		t.Run(name, func(t *testing.T) {
			if got, want := s.reserves(s.request("POST", chatPath, body)), unlearnt(len(body))+5; got != want {
				t.Errorf("%d tokens are reserved for %d bytes, want %d", got, len(body), want)
			}
		})
	}
}

// What is no text must go on counting as few tokens: a picture of a megabyte would be
// 260,000.
func TestEstimatesOfPicturesAndSound(t *testing.T) {
	leavesNothing(t)
	s := startStalled(t)
	code := strings.Repeat("iVBORw0K", 1<<17)
	part := func(p string) string {
		return `{"model":"mock-model","max_tokens":5,"messages":[{"role":"user","content":[` + p + `]}]}`
	}
	for name, body := range map[string]string{
		"a picture":           part(`{"type":"image_url","image_url":{"url":"data:image/png;base64,` + code + `"}}`),
		"a picture, pretty":   part(`{"type": "image_url", "image_url": {"url": "data:image/png;base64,` + code + `"}}`),
		"Responses' picture":  part(`{"type":"input_image","image_url":"data:image/png;base64,` + code + `"}`),
		"sound":               part(`{"type":"input_audio","input_audio":{"data":"` + code + `","format":"wav"}}`),
		"Anthropic's picture": part(`{"type":"image","source":{"type":"base64","media_type":"image/png","data":"` + code + `"}}`),
	} {
		t.Run(name, func(t *testing.T) {
			if got := s.reserves(s.request("POST", chatPath, body)); got < 256 || got > 2000 {
				t.Errorf("%d tokens are reserved", got)
			}
		})
	}
}

// Nothing was reserved for sound: any number of files passed at once.
func TestEstimatesOfForms(t *testing.T) {
	leavesNothing(t)
	s := startStalled(t)
	form := strings.Replace((&upload{size: 1000}).request(t, "mock-model"), "\r\n\r\n", "\r\nAuthorization: Bearer "+s.key+"\r\n\r\n", 1)
	if got := s.reserves(form); got != firstGuess {
		t.Errorf("%d tokens are reserved, want %d", got, firstGuess)
	}
}

// The pictures behind one client's URLs, which have no bytes in its requests, made the
// texts of all others look like a thousand tokens a byte.
func TestEstimatesAreNotSpoiltByAnotherClient(t *testing.T) {
	leavesNothing(t)
	let := make(chan struct{})
	url := rawEngine(t, func(_ *http.Request, c net.Conn) {
		<-let
		say(c, whole(200, "application/json", `{"choices":[],"usage":{"prompt_tokens":100000,"completion_tokens":1,"total_tokens":100001}}`))
	})
	g := apptest.Start(t, limitConfig(t, fmt.Sprintf("backends: [{url: %q, name: e0}]\n", url), ", total_quota: 1000000000", ", total_quota: 1000000000"))
	pictures, other := limitKeyOf(g, 0), limitKeyOf(g, 1)
	for range 5 {
		done := make(chan limitAnswer)
		go func() {
			done <- pictures.say("POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":1,"image_url":"http://pictures.example/1.png"`))
		}()
		let <- struct{}{}
		if a := <-done; a.status != 200 {
			t.Fatalf("%d %s %v", a.status, a.body, a.err)
		}
	}
	if u := pictures.use(t); u.Quota.Used != 5*100001 {
		t.Fatalf("the pictures are not counted: %+v", u)
	}
	body := fmt.Sprintf(limitChat, `"max_tokens":1`)
	done := make(chan limitAnswer)
	go func() { done <- other.say("POST", chatPath, body) }()
	apptest.Eventually(t, "the other's request is on its way", func() bool { return other.use(t).InFlight == 1 })
	if got, want := other.use(t).Quota.Reserved, unlearnt(len(body))+1; got != want {
		t.Errorf("%d tokens are reserved for the other's text, want %d", got, want)
	}
	let <- struct{}{}
	<-done
}
