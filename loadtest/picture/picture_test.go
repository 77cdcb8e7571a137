package picture

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/loadtest/result"
)

func side(name string) *result.Side {
	return &result.Side{
		Name: name, At: result.Series{0, 900, 4000}, TTFT: result.Series{100, 0, -1}, Took: result.Series{500, 900, 30000},
		Load: result.Series{0, 0, 0}, Outcome: "ocg",
		InFlight: map[string]result.Series{"gpu-1": {3, -1, 5}, "gpu-2": {0, 0, 0}},
	}
}

// drawn returns the texts of a picture.
func drawn(t *testing.T, r *result.Result) []string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "p.svg")
	if err := Draw(r, path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for d := xml.NewDecoder(strings.NewReader(string(data))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		if err != nil {
			t.Fatalf("not XML: %v", err)
		}
		if text, ok := token.(xml.CharData); ok {
			texts = append(texts, strings.TrimSpace(string(text)))
		}
	}
}

func TestPictureNamesWhatItShows(t *testing.T) {
	r := &result.Result{
		Scenario: 5, Title: "edge", Lasts: 6000,
		Events: []result.Event{{At: 1000, Name: "the south & the west go"}, {At: 1500, Name: "back"}},
		Sides:  []*result.Side{side("llmproxy"), side("nginx")},
	}
	texts := strings.Join(drawn(t, r), "\n")
	for _, want := range []string{
		"Scenario 5: edge", "the south & the west go", "back", "llmproxy p50", "nginx p99", "nginx, no token", "gpu-1",
		"in flight, llmproxy", "in flight, nginx", "seconds since the load began", "100 ms",
		"30", // the failure of the request that was due at 4 s
	} {
		if !strings.Contains(texts, want) {
			t.Errorf("the picture does not say %q", want)
		}
	}
}

// Without nginx, or when nothing was answered, there is still a picture.
func TestPictureOfWhatIsNotThere(t *testing.T) {
	for name, sides := range map[string][]*result.Side{
		"nginx is missing":  {side("llmproxy"), {Name: "nginx", Missing: "not installed"}},
		"nothing was asked": {{Name: "llmproxy"}, {Name: "nginx"}},
	} {
		t.Run(name, func(t *testing.T) {
			if texts := drawn(t, &result.Result{Lasts: 6000, Sides: sides}); len(texts) == 0 {
				t.Error("nothing is drawn")
			}
		})
	}
}
