package scenario

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Load is one kind of client. Its conversations begin at random (a Poisson
// process), and each of their turns is due at a time of its own, whether or not
// the answer to the last one is there: nothing that a slow gateway does makes
// the load lighter.
type Load struct {
	Who       string        `yaml:"who"`
	Model     string        `yaml:"model"`          // as the client names it
	PerSecond float64       `yaml:"conversations"`  // begun a second
	Users     int           `yaml:"users"`          // who take turns to begin one; each has a key
	Keys      []string      `yaml:"keys"`           // the users' keys; default: user-1, user-2 and so on, with Who and a dash before them
	Address   string        `yaml:"address"`        // of the clients, as a proxy in front would tell it; default: this machine's
	From      time.Duration `yaml:"from"`           // begin no earlier
	Until     time.Duration `yaml:"until"`          // begin no later; 0: the end
	Turns     float64       `yaml:"turns"`          // mean number of a conversation's questions, at least 1 (geometric)
	Pause     time.Duration `yaml:"pause"`          // mean time between them: half of it certain, half exponential
	Whole     float64       `yaml:"whole"`          // share of the requests that want no stream
	Systems   int           `yaml:"system_prompts"` // how many there are; a conversation has one of them
	System    int           `yaml:"system_tokens"`  // length of each
	Question  Length        `yaml:"question"`       // tokens of a question
	Answer    Length        `yaml:"answer"`         // tokens of an answer
	Seed      uint64        `yaml:"seed"`
}

// Length is a log-normal distribution of tokens.
type Length struct {
	Median float64 `yaml:"median"`
	Sigma  float64 `yaml:"sigma"` // of the logarithm
	Most   int     `yaml:"most"`  // longer ones are cut to this
}

func (l Length) draw(rnd *rand.Rand) int {
	return min(max(1, int(l.Median*math.Exp(l.Sigma*rnd.NormFloat64()))), l.Most)
}

// Request is one request of the plan.
type Request struct {
	At     time.Duration // when it is due
	Load   int           // index of its Load
	Key    string        // of its user
	From   string        // its Load's Address
	Model  string
	Stream bool
	Tokens int // of the answer
	Body   []byte
}

// Plan is every request of the scenario, in the order in which they are due. It
// is the same for every run.
func (s *Scenario) Plan() ([]Request, error) {
	var plan []Request
	for i := range s.Load {
		l := &s.Load[i]
		requests, err := l.plan(s.Lasts)
		if err != nil {
			return nil, err
		}
		for _, r := range requests {
			r.Load = i
			plan = append(plan, r)
		}
	}
	slices.SortStableFunc(plan, func(a, b Request) int { return cmp.Compare(a.At, b.At) })
	return plan, nil
}

func (l *Load) plan(lasts time.Duration) ([]Request, error) {
	rnd := rand.New(rand.NewPCG(l.Seed, 1))
	systems := make([]string, max(1, l.Systems))
	for i := range systems {
		systems[i] = text(rnd, l.System)
	}
	until := lasts
	if l.Until > 0 {
		until = l.Until
	}
	at := l.From
	if at == 0 {
		// The first requests of a run are not all first turns: some
		// conversations began earlier.
		at = -time.Duration(2 * l.Turns * float64(l.Pause))
	}
	var out []Request
	for n := 0; ; n++ {
		at += time.Duration(rnd.ExpFloat64() / l.PerSecond * float64(time.Second))
		if at >= until {
			return out, nil
		}
		turns, err := l.conversation(rnd, at, n, systems[rnd.IntN(len(systems))])
		if err != nil {
			return nil, err
		}
		for _, r := range turns {
			if r.At >= 0 && r.At < until {
				out = append(out, r)
			}
		}
	}
}

// message is one of a chat.
type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// conversation is the n-th one: each turn repeats what was said before it, as
// clients of a chat API do, with a made-up answer of the length asked for.
func (l *Load) conversation(rnd *rand.Rand, at time.Duration, n int, system string) ([]Request, error) {
	said := []message{{"system", system}}
	var out []Request
	for {
		said = append(said, message{"user", text(rnd, l.Question.draw(rnd))})
		r := Request{
			At: at, Key: l.key(n), From: l.Address, Model: l.Model,
			Stream: rnd.Float64() >= l.Whole, Tokens: l.Answer.draw(rnd),
		}
		var err error
		r.Body, err = json.Marshal(map[string]any{
			"model": l.Model, "messages": said, "stream": r.Stream, "max_tokens": r.Tokens,
		})
		if err != nil {
			return nil, fmt.Errorf("cannot write a request: %w", err)
		}
		out = append(out, r)
		said = append(said, message{"assistant", text(rnd, r.Tokens)})
		at += time.Duration(float64(l.Pause) * (0.5 + 0.5*rnd.ExpFloat64()))
		if rnd.Float64()*l.Turns < 1 {
			return out, nil
		}
	}
}

func (l *Load) key(n int) string {
	if len(l.Keys) > 0 {
		return l.Keys[n%len(l.Keys)]
	}
	return fmt.Sprintf("%s-user-%d", strings.ReplaceAll(l.Who, " ", "-"), n%max(1, l.Users)+1)
}

// users are the keys of all users, each once.
func (s *Scenario) users() []string {
	var out []string
	for i := range s.Load {
		l := &s.Load[i]
		for n := range max(1, l.Users, len(l.Keys)) {
			out = append(out, l.key(n))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// text is so many tokens: words of three letters, which are four bytes each with
// their blank, the fake engine's token.
func text(rnd *rand.Rand, tokens int) string {
	b := make([]byte, 0, 4*tokens)
	for range tokens {
		n := rnd.Uint32()
		b = append(b, byte('a'+n%26), byte('a'+n>>8%26), byte('a'+n>>16%26), ' ')
	}
	return string(b)
}
