package usage_test

import (
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/usage"
)

func TestPromptBytes(t *testing.T) {
	picture := strings.Repeat("iVBORw0K", 10_000)
	const counts = 1024 + 80_000/256
	text := strings.Repeat("tell me more ", 5_000)
	for name, c := range map[string]struct {
		body string
		less int // than the body is long
	}{
		"OpenAI's picture":                    {`{"url":"data:image/png;base64,` + picture + `"}`, len(picture) - counts},
		"OpenAI's sound":                      {`{"input_audio":{"data": "` + picture + `","format":"wav"}}`, len(picture) - counts},
		"Anthropic's picture":                 {`{"source":{"type":"base64","data":"` + picture + `"}}`, len(picture) - counts},
		"two of them":                         {`{"url":"data:a;base64,` + picture + `"},{"url": "data:a;base64,` + picture + `"}`, 2 * (len(picture) - counts)},
		"without an end":                      {`{"data":"` + picture, 0},
		"text":                                {`{"content":"` + picture + `"}`, 0},
		"text that looks like a picture":      {`{"content":"\"url\":\"data:a;base64,` + picture + `"}`, 0},
		"text that begins as one":             {`{"content":"data:image/png;base64,` + picture + `"}`, 0},
		"text where a picture should be":      {`{"url":"data:a;base64,` + text + `"}`, 0},
		"what is taken off twice":             {`{"data":"` + strings.Repeat("A", 65) + `;base64,` + picture + `"}`, 0},
		"many small ones are what they are":   {`[` + strings.Repeat(`{"data":"AAAA"},`, 5_000) + `0]`, 0},
		"small bodies are not looked through": {`{"url":"data:a;base64,AAAA"}`, 0},
	} {
		body := `{"messages":[` + c.body + `]}`
		if got, want := usage.PromptBytes([]byte(body)), len(body)-c.less; got != want {
			t.Errorf("%s: %d of %d, want %d", name, got, len(body), want)
		}
		tool := `{"tools":[` + c.body + `]}` // is put into the prompt as it is
		if got := usage.PromptBytes([]byte(tool)); got != len(tool) {
			t.Errorf("%s, in a tool: %d of %d", name, got, len(tool))
		}
	}
}
