package app_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// TestModelsOfAnEngineInDisorder: what is wrong with one entry of an engine's
// list does not hide its other models, and is not passed on.
func TestModelsOfAnEngineInDisorder(t *testing.T) {
	const a, z = `{"id":"a","owned_by":"x"}`, `{"id":"z"}`
	for _, c := range []struct{ name, entry, want string }{
		{"a string", `"b"`, a + "," + z},
		{"a number", `7`, a + "," + z},
		{"null", `null`, a + "," + z},
		{"a list", `[{"id":"b"}]`, a + "," + z},
		{"no name", `{"object":"model"}`, a + "," + z},
		{"a name that is a number", `{"id":7}`, a + "," + z},
		{"a name that is not UTF-8", "{\"id\":\"b\xff\"}", a + "," + z},
		{"a field that is not UTF-8", "{\"id\":\"b\",\"x\":{\"y\":\"\xff\"}}", a + "," + z},
		{"nothing wrong", `{"id":"b","x":"é"}`, a + `,{"id":"b","x":"é"},` + z},
	} {
		t.Run(c.name, func(t *testing.T) {
			engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"object":"list","data":[%s,%s,%s]}`, a, c.entry, z)
			}))
			t.Cleanup(engine.Close)
			g := apptest.Start(t, "backends: [{url: "+engine.URL+"}]\nhealth_check: {enabled: false}\n")
			resp, err := http.Get(g.URL + "/v1/models")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			if want := `{"object":"list","data":[` + c.want + `]}`; resp.StatusCode != 200 || string(got) != want {
				t.Errorf("%d %s\nwant %s", resp.StatusCode, got, want)
			}
		})
	}
}
