package scripts_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/openai"
)

// page is a document for users, by its path in the repository.
type page struct {
	path, text string
	blocks     []block
}

// block is what stands between two fences.
type block struct {
	lang, text string
	line       int  // of the opening fence
	behind     bool // nothing but blank lines between it and the block before
}

func readPage(t *testing.T, path string) page {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", path))
	if err != nil {
		t.Fatal(err)
	}
	p := page{path: path, text: string(b)}
	open, behind := false, false
	n := 0
	for line := range strings.Lines(p.text) {
		n++
		lang, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && !open:
			p.blocks = append(p.blocks, block{lang: strings.TrimSpace(lang), line: n, behind: behind})
			open = true
		case fence:
			open, behind = false, true
		case open:
			p.blocks[len(p.blocks)-1].text += line
		case strings.TrimSpace(line) != "":
			behind = false
		}
	}
	if open {
		t.Fatalf("%s: a block is not closed", path)
	}
	return p
}

// pages are README.md and all of docs/.
func pages(t *testing.T) []page {
	t.Helper()
	files, err := filepath.Glob("../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatal("no pages", err)
	}
	all := []page{readPage(t, "README.md")}
	for _, f := range files {
		all = append(all, readPage(t, "docs/"+filepath.Base(f)))
	}
	return all
}

// prose is the page without its blocks.
func (p page) prose() string {
	return regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAllString(p.text, "")
}

// headings are those of the prose, without their marks.
func (p page) headings() []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(p.prose(), -1) {
		all = append(all, m[1])
	}
	return all
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

func (p page) links() []string {
	var all []string
	for _, m := range link.FindAllStringSubmatch(p.prose(), -1) {
		all = append(all, m[1])
	}
	return all
}

// spans are the code spans of a text.
func spans(text string) []string {
	var all []string
	for _, m := range regexp.MustCompile("`([^`\n]+)`").FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// anchor is the name that GitHub gives a heading.
func anchor(heading string) string {
	s := regexp.MustCompile(`[^\p{L}\p{N}_\- ]`).ReplaceAllString(strings.ToLower(heading), "")
	return strings.ReplaceAll(s, " ", "-")
}

func TestLinksOfTheDocsLeadSomewhere(t *testing.T) {
	all := append(pages(t), readPage(t, "README.zh-CN.md"), readPage(t, "CONTRIBUTING.md"), readPage(t, "CHANGELOG.md"))
	for _, p := range all {
		for _, l := range p.links() {
			if strings.Contains(l, "://") {
				continue
			}
			file, name, _ := strings.Cut(l, "#")
			target := filepath.Join(filepath.Dir(p.path), file)
			if file == "" {
				target = p.path
			}
			if _, err := os.Stat(filepath.Join("..", target)); err != nil {
				t.Errorf("%s: %s: %v", p.path, l, err)
				continue
			}
			if name == "" {
				continue
			}
			names := readPage(t, target).headings()
			for i, h := range names {
				names[i] = anchor(h)
			}
			if !slices.Contains(names, name) {
				t.Errorf("%s: %s: no heading of that name", p.path, l)
			}
		}
	}
}

func TestEveryPageIsInTheReadme(t *testing.T) {
	links := readPage(t, "README.md").links()
	for _, p := range pages(t)[1:] {
		if !slices.Contains(links, p.path) {
			t.Errorf("README.md does not lead to %s", p.path)
		}
	}
}

// TestChineseReadmeIsEqual compares what can be compared: the words of pictures
// and prose are in another language.
func TestChineseReadmeIsEqual(t *testing.T) {
	en, zh := readPage(t, "README.md"), readPage(t, "README.zh-CN.md")
	marks := regexp.MustCompile(`(?m)^(#+ |- |\|)`)
	if a, b := marks.FindAllString(en.prose(), -1), marks.FindAllString(zh.prose(), -1); !slices.Equal(a, b) {
		t.Errorf("headings, items and rows: %q in English, %q in Chinese", a, b)
	}
	a, b := en.links(), zh.links()
	if a[0] != zh.path || b[0] != en.path || !slices.Equal(a[1:], b[1:]) {
		t.Errorf("links: %q in English, %q in Chinese", a, b)
	}
	if len(en.blocks) != len(zh.blocks) {
		t.Fatalf("%d blocks in English, %d in Chinese", len(en.blocks), len(zh.blocks))
	}
	labels := regexp.MustCompile(`"[^"]*"`)
	for i, b := range en.blocks {
		c := zh.blocks[i]
		if b.lang == "mermaid" {
			b.text, c.text = labels.ReplaceAllString(b.text, `""`), labels.ReplaceAllString(c.text, `""`)
		}
		if b.lang != c.lang || b.text != c.text {
			t.Errorf("README.md:%d: not what stands at README.zh-CN.md:%d:\n%s\n%s", b.line, c.line, b.text, c.text)
		}
	}
}

// sources are all Go files but the tests, in one string.
func sources(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, root := range []string{"../pkg", "../cmd"} {
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			all.Write(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

const troubleshoot = "docs/troubleshoot.md"

// TestSymptomsAreReal: what the headings of the page quote is what the gateway
// says, or the kernel.
func TestSymptomsAreReal(t *testing.T) {
	source := sources(t)
	for _, h := range readPage(t, troubleshoot).headings() {
		for _, quoted := range spans(h) {
			for part := range strings.SplitSeq(quoted, "…") {
				kernel := part == syscall.EADDRINUSE.Error() || part == syscall.EMFILE.Error()
				if !kernel && !strings.Contains(source, part) {
					t.Errorf("%s: nothing says %q", troubleshoot, part)
				}
			}
		}
	}
}

func TestEveryErrorIsExplained(t *testing.T) {
	all := []*openai.Error{
		openai.BadRequest("", ""), openai.NoModel(), openai.ModelNotFound(""), openai.NotFound("", ""),
		openai.NotServed("", ""), openai.ResponseNotFound(""), openai.MethodNotAllowed("", ""),
		openai.RequestTimeout(), openai.BodyTooLarge(0), openai.UnsupportedMedia(), openai.UnsupportedForm(),
		openai.HeadersTooLarge(), openai.Overloaded(time.Second), openai.Unavailable("", 0),
		openai.ShuttingDown(), openai.KeysUnavailable(), openai.BadGateway(), openai.GatewayTimeout(), openai.Internal(),
		openai.NoKey(), openai.WrongKey(), openai.AddressNotAllowed(), openai.ModelRequired(),
		openai.GloballyLimited(0), openai.RateLimited("", 0, "", 0), openai.TokensLimited(0, 0, 0),
		openai.QuotaExceeded(openai.Quota{Exhausted: true}, 0),
	}
	source := sourcesOf(t, "../pkg/openai/error.go", "../pkg/openai/refusal.go")
	if made := regexp.MustCompile(`(?m)^func [A-Z]\w*\(.*\) \*Error \{`).FindAllString(source, -1); len(made) != len(all) {
		t.Fatalf("pkg/openai has %d errors, this test %d", len(made), len(all))
	}
	wanted := adminErrors(t)
	for _, e := range all {
		wanted = append(wanted, fmt.Sprintf("%d %s", e.Status, e.Code))
	}
	p := readPage(t, troubleshoot)
	explained := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| (\d+) \| (.*?) \|`).FindAllStringSubmatch(p.text, -1) {
		for _, code := range spans(row[2]) {
			explained[row[1]+" "+code] = true
		}
	}
	headings := strings.Join(p.headings(), "\n")
	for _, key := range wanted {
		_, code, _ := strings.Cut(key, " ")
		if !explained[key] || !strings.Contains(headings, "`"+code+"`") {
			t.Errorf("%s does not explain %s", troubleshoot, key)
		}
	}
}

// adminErrors are the statuses and codes of the admin API's own errors, of which
// its page has to have each too.
func adminErrors(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../pkg/admin/*.go")
	if err != nil {
		t.Fatal(err)
	}
	source := sourcesOf(t, slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.go") })...)
	status := map[string]string{
		"Unauthorized": "401", "NotFound": "404", "Conflict": "409", "UnprocessableEntity": "422",
	}
	refusals := regexp.MustCompile(`refusal\(http\.Status(\w+), "\w*", "(\w+)"`).FindAllStringSubmatch(source, -1)
	failures := regexp.MustCompile(`a\.broken\(c, [^,]+, [^"]+"(\w+)"`).FindAllStringSubmatch(source, -1)
	if calls := strings.Count(source, "refusal(http.") + strings.Count(source, "a.broken(c,"); len(refusals)+len(failures) != calls {
		t.Fatalf("pkg/admin makes errors at %d places, of which this test reads %d", calls, len(refusals)+len(failures))
	}
	seen := map[string]bool{}
	for _, m := range refusals {
		seen[status[m[1]]+" "+m[2]] = true
	}
	for _, m := range failures {
		seen["503 "+m[1]] = true
	}
	page := readPage(t, "docs/admin.md").text
	for key := range seen {
		number, code, _ := strings.Cut(key, " ")
		if !regexp.MustCompile(`(?m)^\| ` + number + `\b.*` + "`" + code + "`").MatchString(page) {
			t.Errorf("docs/admin.md does not have %s", key)
		}
	}
	return slices.Collect(maps.Keys(seen))
}

// sourcesOf is the text of files, one after the other.
func sourcesOf(t *testing.T, files ...string) string {
	t.Helper()
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}

// TestTheDocsNameWhatThereIs: metrics, and keys of the configuration.
func TestTheDocsNameWhatThereIs(t *testing.T) {
	source := sources(t)
	var keys map[string]any
	reference, err := os.ReadFile("../configs/llmproxy.yaml")
	if err == nil {
		err = yaml.Unmarshal(reference, &keys)
	}
	if err != nil {
		t.Fatal(err)
	}
	metric, key := regexp.MustCompile(`\bllmproxy_[a-z_]*[a-z]\b`), regexp.MustCompile(`^[a-z_]+(\.[a-z_]+)+$`)
	for _, p := range pages(t) {
		for _, m := range metric.FindAllString(p.text, -1) {
			if !strings.Contains(source, m) {
				t.Errorf("%s: there is no metric %s", p.path, m)
			}
		}
		for _, s := range spans(p.prose()) {
			parts := strings.Split(s, ".")
			if _, ours := keys[parts[0]]; !ours || !key.MatchString(s) {
				continue
			}
			at := any(keys)
			for _, part := range parts {
				section, _ := at.(map[string]any)
				if at = section[part]; at == nil {
					t.Errorf("%s: there is no key %s", p.path, s)
					break
				}
			}
		}
	}
}

// TestConfigurationsOfTheDocs loads every piece of YAML.
func TestConfigurationsOfTheDocs(t *testing.T) {
	dir := t.TempDir()
	pem, err := os.ReadFile("../pkg/config/testdata/ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gpu-1.key", "gateway.key", "gateway.pem", "internal-ca.pem", "clients-ca.pem", "hook.secret"} {
		content := pem
		if !strings.HasSuffix(name, ".pem") {
			content = []byte("sk-0123456789abcdef\n")
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range pages(t) {
		for _, b := range p.blocks {
			if b.lang != "yaml" || strings.HasPrefix(b.text, "spec:") { // Kubernetes' own
				continue
			}
			text := b.text
			if !regexp.MustCompile(`(?m)^backends:`).MatchString(text) {
				text += "\nbackends: [{url: \"http://127.0.0.1:9001\"}]\n"
			}
			file := filepath.Join(dir, "llmproxy.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := config.Load(file, nil); err != nil {
				t.Errorf("%s:%d: %v", p.path, b.line, err)
			}
		}
	}
}
