package gateway

import (
	"strings"
	"testing"
)

func TestPromptBytes(t *testing.T) {
	picture := strings.Repeat("iVBORw0K", 10_000)
	for name, c := range map[string]struct {
		body string
		want int
	}{
		"OpenAI's picture":                    {`{"url":"data:image/png;base64,` + picture + `"}`, len(`{"url":"data:image/png;base64,"}`)},
		"OpenAI's sound":                      {`{"input_audio":{"data": "` + picture + `","format":"wav"}}`, len(`{"input_audio":{"data": "","format":"wav"}}`)},
		"Anthropic's picture":                 {`{"source":{"type":"base64","data":"` + picture + `"}}`, len(`{"source":{"type":"base64","data":""}}`)},
		"counted once":                        {`{"data":"data:image/png;base64,` + picture + `"}`, len(`{"data":"data:image/png;base64,"}`)},
		"two of them":                         {`["data:a;base64,` + picture + `","data:a;base64,` + picture + `"]`, len(`["data:a;base64,","data:a;base64,"]`)},
		"without an end":                      {`{"data":"` + picture, len(`{"data":"`) + len(picture)},
		"text":                                {`{"content":"` + picture + `"}`, len(`{"content":""}`) + len(picture)},
		"small bodies are not looked through": {`{"url":"data:a;base64,AAAA"}`, len(`{"url":"data:a;base64,AAAA"}`)},
	} {
		if got := promptBytes([]byte(c.body)); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
