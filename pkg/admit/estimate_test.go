package admit_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/quota"
)

// reserved is what a request reserves that says it may have that many tokens; -1: it
// does not say.
func reserved(t *testing.T, g *admit.Gate, who byte, prompt, output int64) int64 {
	t.Helper()
	r := asking(who, 0, &limit.Limits{}, prompt)
	r.Output, r.Term = output, new(quota.Account).Term(birth, quota.Daily, time.UTC)
	ticket := enter(t, g, r)
	defer ticket.Leave(birth)
	return r.Term.Reserved()
}

// answer lets a client get an answer of so many tokens.
func answer(t *testing.T, g *admit.Gate, who byte, tokens int64) {
	t.Helper()
	ticket := enter(t, g, asking(who, 0, &limit.Limits{}, 0))
	ticket.Answered(tokens)
	ticket.Leave(birth)
}

// near is within a tenth, or two.
func near(got, want int64) bool { return math.Abs(float64(got-want)) <= max(2, float64(want)/10) }

func TestAnswersAreExpectedToBeLikeTheLast(t *testing.T) {
	g := newGate()
	if got := reserved(t, g, 1, 10, -1); got != 10+256 {
		t.Errorf("the first of all reserves %d", got)
	}
	for range 40 {
		answer(t, g, 1, 1000)
	}
	for _, c := range []struct {
		name           string
		who            byte
		prompt, output int64
		want           int64
	}{
		{"like its last", 1, 10, -1, 1010},
		{"another client, like all the last", 2, 10, -1, 1010},
		{"by its own word", 1, 10, 40, 50},
		{"by its own word, nothing", 1, 10, 0, 10},
		{"by its own word, more than ever", 1, 10, 5000, 5010},
	} {
		if got := reserved(t, g, c.who, c.prompt, c.output); !near(got, c.want) {
			t.Errorf("%s: %d, want about %d", c.name, got, c.want)
		}
	}
	for range 40 {
		answer(t, g, 2, 20)
	}
	if one, two := reserved(t, g, 1, 0, -1), reserved(t, g, 2, 0, -1); !near(one, 1000) || two > 100 {
		t.Errorf("%d and %d are reserved, want about 1000 and 20: answers of others do not count", one, two)
	}
}

// Of answers that differ, most must fit into what is reserved.
func TestAnswersThatDifferReserveForTheLong(t *testing.T) {
	g := newGate()
	for i := range int64(200) {
		answer(t, g, 1, 100+i%10*100) // 100 to 1000
	}
	if got := reserved(t, g, 1, 0, -1); got < 800 || got > 1400 {
		t.Errorf("%d are reserved for answers of 100 to 1000", got)
	}
}

// An answer without tokens tells nothing of how long answers are.
func TestEmptyAnswersTeachNothing(t *testing.T) {
	g := newGate()
	for _, tokens := range []int64{0, -5} {
		answer(t, g, 1, tokens)
	}
	if got := reserved(t, g, 1, 0, -1); got != 256 {
		t.Errorf("%d are reserved", got)
	}
}

func TestPromptsAreLearntByModel(t *testing.T) {
	g := newGate()
	m := g.Model("a")
	if got := m.Prompt(1000); got != 250 {
		t.Errorf("1000 bytes are %d tokens before anything is known", got)
	}
	for range 50 {
		m.Learn(1000, 500)
	}
	for bytes, want := range map[int]int64{1000: 500, 10: 5, 1: 1, 0: 0} {
		if got := m.Prompt(bytes); !near(got, want) || bytes > 0 && got < want {
			t.Errorf("%d bytes are %d tokens, want %d", bytes, got, want)
		}
	}
	if got := g.Model("b").Prompt(1000); got != 250 {
		t.Errorf("1000 bytes are %d tokens to another model", got)
	}
	if g.Model("a") != m {
		t.Error("what was learnt is forgotten")
	}
	for _, bad := range []struct {
		bytes  int
		tokens int64
	}{{0, 5}, {-1, 5}, {5, 0}, {5, -1}} {
		m.Learn(bad.bytes, bad.tokens)
	}
	if got := m.Prompt(1000); !near(got, 500) {
		t.Errorf("1000 bytes are %d tokens after what is no lesson", got)
	}
}

// Names of models are bounded: what clients send may become one.
func TestModelsAreBounded(t *testing.T) {
	g := newGate()
	first := g.Model("first")
	for i := range 10_000 {
		g.Model(fmt.Sprint("m", i)).Learn(1, 1000)
	}
	if g.Model("first") != first {
		t.Error("the first is forgotten")
	}
	if got := g.Model("m9999").Prompt(1000); got != 250 {
		t.Errorf("the last is remembered: %d", got)
	}
}

// A client's number, however large, must not overflow into room for more.
func TestHugeEstimatesAreRefusedOrClamped(t *testing.T) {
	g := newGate()
	for range 100 {
		answer(t, g, 3, math.MaxInt64)
	}
	huge := g.Model("huge")
	for range 100 {
		huge.Learn(1, math.MaxInt64)
	}
	for _, c := range []struct {
		name           string
		who            byte
		prompt, output int64
		quota          int64
	}{
		{"max_tokens", 1, 0, math.MaxInt64, 0},
		{"answers", 3, 0, -1, 1000},
		{"a prompt", 1, g.Model("b").Prompt(math.MaxInt), 0, 1000},
		{"a prompt, by a huge ratio", 1, huge.Prompt(math.MaxInt), 0, 1000},
		{"all of it", 3, huge.Prompt(math.MaxInt), math.MaxInt64, 0},
	} {
		r := asking(c.who, 0, &limit.Limits{Tokens: limit.PerMinute(100)}, c.prompt)
		r.Output, r.Quota, r.Term = c.output, c.quota, new(quota.Account).Term(birth, quota.Daily, time.UTC)
		ticket := enter(t, g, r)
		if got := r.Term.Reserved(); c.quota > 0 && got != c.quota || got < 1000 || got > 1e12 {
			t.Errorf("%s reserves %d of a quota of %d", c.name, got, c.quota)
		}
		if got := refuse(t, g, r); got.Tokens < 1000 || got.Wait <= 0 {
			t.Errorf("another of %s: %+v", c.name, got)
		}
		ticket.Leave(birth)
		if _, tokens, _, _ := g.Standings(r.Who, r.Limits, birth); tokens.Left != 100 || r.Term.Reserved() != 0 {
			t.Errorf("%s leaves %d of 100, and %d reserved", c.name, tokens.Left, r.Term.Reserved())
		}
	}
}

// An estimate may be wrong: what is estimated at more than the whole quota gets a
// chance. What the request itself says is not.
func TestMoreThanTheWholeQuota(t *testing.T) {
	for _, c := range []struct {
		name           string
		prompt, output int64
		in             bool
	}{
		{"a prompt that looks so", 5000, 1000, true},
		{"an answer of the quota", 0, 1000, true},
		{"nothing", 0, 0, true},
		{"an answer of one more", 0, 1001, false},
		{"an answer that cannot be", 0, math.MaxInt64, false},
	} {
		g, r := newGate(), asking(1, 0, &limit.Limits{}, c.prompt)
		r.Output, r.Quota, r.Term = c.output, 1000, new(quota.Account).Term(birth, quota.Daily, time.UTC)
		if c.in {
			enter(t, g, r)
			continue
		}
		if got := refuse(t, g, r); got.Limit != admit.Quota || !got.Exhausted || r.Term.Reserved() != 0 {
			t.Errorf("%s: %+v, %d reserved", c.name, got, r.Term.Reserved())
		}
	}
}

// Four answers to each of fifty prompts are two hundred: five such requests at once
// spent 25,000 tokens of a limit of 1000.
func TestEveryAnswerIsReservedFor(t *testing.T) {
	for _, c := range []struct{ output, answers, want int64 }{
		{100, 0, 110},
		{100, 1, 110},
		{100, 200, 20_010},
		{-1, 3, 10 + 3*256},
		{0, 50, 10},
		{5, -7, 15},
		{math.MaxInt64, math.MaxInt64, 1e12},
	} {
		r := asking(1, 0, &limit.Limits{}, 10)
		r.Output, r.Answers, r.Term = c.output, c.answers, new(quota.Account).Term(birth, quota.Daily, time.UTC)
		enter(t, newGate(), r)
		if got := r.Term.Reserved(); got != c.want {
			t.Errorf("%d answers of %d reserve %d, want %d", c.answers, c.output, got, c.want)
		}
	}
}

// One key sent blanks, and another's prompts then passed its quota on next to nothing.
func TestBlanksTeachNothing(t *testing.T) {
	m := newGate().Model("m")
	for range 60 {
		m.Learn(200_000, 8)
	}
	if got := m.Prompt(8000); got < 2000 {
		t.Errorf("8000 bytes are taken for %d tokens", got)
	}
}
