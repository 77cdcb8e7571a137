package auth_test

import (
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

func confined(secret string, models ...string) *auth.Key {
	k := key(secret)
	k.Models = models
	return k
}

func TestMayUse(t *testing.T) {
	mapping := map[string]string{
		"llama-3-70b": "llama-3-70b-instruct", "qwen": "qwen-72b-chat", "self": "self",
		"small": "large", "large": "huge", // a name that is both: asked for, it is huge
	}
	for _, c := range []struct{ guards, models, model, want string }{
		{"alias", "llama-3-70b", "llama-3-70b", "yes"},
		{"target of an alias", "llama-3-70b", "llama-3-70b-instruct", "yes"},
		{"alias of a target", "llama-3-70b-instruct", "llama-3-70b", "no"},
		{"the target itself", "llama-3-70b-instruct", "llama-3-70b-instruct", "yes"},
		{"target of another alias", "llama-3-70b", "qwen-72b-chat", "no"},
		{"target of an alias by a glob", "qw?n mistral", "qwen-72b-chat", "yes"},
		{"mapped to itself", "self", "self", "yes"},
		{"a model by an alias of the same name", "small", "large", "no"},
		{"an alias that leads on", "large", "huge", "yes"},
		{"two steps", "small", "huge", "no"},
		{"other case", "llama-3-70b", "Llama-3-70B", "no"},
		{"other case of a glob", "llama-*", "LLAMA-3", "no"},
		{"prefix of a name", "llama-3-70b", "llama-3", "no"},
		{"name and more", "llama-3-70b", "llama-3-70b ", "no"},
		{"a NUL behind", "llama-3-70b", "llama-3-70b\x00", "no"},
		{"glob", "llama-3-*", "llama-3-8b", "yes"},
		{"glob without a run", "llama-3-*", "llama-3-", "yes"},
		{"glob is for the whole name", "llama-3-*", "my-llama-3-8b", "no"},
		{"one character", "gpt-?", "gpt-4", "yes"},
		{"one character of three bytes", "gpt-?", "gpt-世", "yes"},
		{"not none", "gpt-?", "gpt-", "no"},
		{"a run within", "*-70b-*", "llama-70b-70b-chat", "yes"},
		{"a run tried again", "*ab?c", "abxabyc", "yes"},
		{"slash is a character", "meta-llama/*", "meta-llama/a/b", "yes"},
		{"brackets are characters", "[a-z]", "b", "no"},
		{"second of a list", "b a", "a", "yes"},
		{"no model", "*", "", "no"},
	} {
		k := confined("k", append([]string{}, strings.Fields(c.models)...)...)
		r := ring(t, auth.Defaults{Mapping: mapping}, key("other"), confined("all", "*"), k)
		if got := r.MayUse(k, c.model); got != (c.want == "yes") || !r.HasModels(k) {
			t.Errorf("%s: %q with %q: %t", c.guards, c.model, c.models, got)
		}
	}
}

func TestMayUseAnyWithoutAList(t *testing.T) {
	k, free := key("k"), key("free")
	free.Models = []string{} // whatever the default
	for key, r := range map[*auth.Key]*auth.Keyring{
		k:    ring(t, auth.Defaults{}, confined("other", "a"), k),
		free: ring(t, auth.Defaults{Models: []string{"a"}}, free),
	} {
		if r.HasModels(key) || !r.MayUse(key, "anything") || !r.MayUse(key, "") {
			t.Errorf("%s is confined without a list", key.Name)
		}
	}
}

func TestMayUseTheDefaultWithoutAList(t *testing.T) {
	k, own := key("k"), confined("own", "b")
	r := ring(t, auth.Defaults{Models: []string{"a*"}}, k, own)
	if !r.HasModels(k) || !r.MayUse(k, "ab") || r.MayUse(k, "b") || r.MayUse(own, "ab") || !r.MayUse(own, "b") {
		t.Fatal("the default list is not that of keys without one, and of no others")
	}
}

// Lists are prepared once for all keys with the same; two that look alike when they
// are joined must not become one.
func TestListsAreNotConfused(t *testing.T) {
	one, two := confined("one", "a\x01b"), confined("two", "a", "b")
	three, four := confined("three", "ab", "c"), confined("four", "a", "bc")
	r := ring(t, auth.Defaults{}, one, two, three, four)
	if r.MayUse(one, "a") || !r.MayUse(two, "a") || r.MayUse(three, "bc") || !r.MayUse(four, "bc") {
		t.Fatal("one key has the list of another")
	}
}

// Whoever names a model of a megabyte must not hold a processor with it. Trying again
// from each earlier * would take longer than the universe is old.
func TestNoPatternIsABomb(t *testing.T) {
	k := confined("k", strings.Repeat("*a", 30)+"*b")
	r := ring(t, auth.Defaults{}, k)
	name := strings.Repeat("a", 1<<20)
	began := time.Now()
	if r.MayUse(k, name) {
		t.Fatal("matches")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Fatalf("took %v", took)
	}
}
