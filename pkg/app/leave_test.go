package app_test

import (
	"io"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// abortLimit is how soon an engine must know, at the 99th percentile of a long
// run, that the client it works for has left.
const abortLimit = 50 * time.Millisecond

// stay is what an engine is doing for a client when that leaves.
type stay struct {
	name   string
	engine mockvllm.Options
	tokens int
	// more is put into the body of a request for a stream and of one for a
	// whole answer; "-" where there is no such phase.
	stream, whole string
	full          bool // another request holds the engine's only place
	read          int  // bytes of a stream that the client has read
	there         func(*mockvllm.Entry) bool
}

const slowToken = 5 * time.Millisecond

var stays = []stay{
	{
		name: "no header", stream: `"mock_fault":"hang"`, whole: `"mock_fault":"hang"`,
		there: func(r *mockvllm.Entry) bool { return r.Fault != "" },
	},
	{
		name: "slow header", stream: `"mock_fault":"slow-headers=1h"`, whole: `"mock_fault":"slow-headers=1h"`,
		there: func(r *mockvllm.Entry) bool { return r.Fault != "" },
	},
	{
		name: "header, no event", stream: `"mock_fault":"slow-first-token=1h"`, whole: "-",
		there: func(r *mockvllm.Entry) bool { return r.Status == 200 },
	},
	{
		name: "comment, no event", stream: `"mock_fault":"comment","mock_prefill_ms":3600000`, whole: "-",
		there: func(r *mockvllm.Entry) bool { return r.State == mockvllm.StatePrefill && r.Status == 200 },
	},
	{
		name: "queued", engine: mockvllm.Options{MaxNumSeqs: 1}, full: true,
		there: func(r *mockvllm.Entry) bool { return r.PromptTokens > 0 },
	},
	{
		name: "prefill", stream: `"mock_prefill_ms":3600000`, whole: `"mock_prefill_ms":3600000`,
		there: func(r *mockvllm.Entry) bool { return r.State == mockvllm.StatePrefill },
	},
	{
		name: "first event", engine: mockvllm.Options{StepBase: slowToken}, tokens: 3000, whole: "-", read: 1,
		there: func(r *mockvllm.Entry) bool { return r.Events > 0 },
	},
	{
		name: "between tokens", engine: mockvllm.Options{StepBase: slowToken}, tokens: 3000, read: 700,
		there: func(r *mockvllm.Entry) bool { return r.State == mockvllm.StateDecode },
	},
	{
		name: "tokens at full speed", tokens: 20000, whole: "-", read: 16 << 10,
		there: func(r *mockvllm.Entry) bool { return r.Events > 0 },
	},
	{
		name: "silence in mid-answer", tokens: 8, stream: `"mock_fault":"stall=3"`, whole: `"mock_fault":"stall"`,
		there: func(r *mockvllm.Entry) bool { return r.Status == 200 && (r.Events == 3 || !r.Stream) },
	},
}

// TestClientLeaves: the engine knows within milliseconds that nobody waits for
// its answer any more, whatever it is doing, however the client went.
func TestClientLeaves(t *testing.T) {
	times := 2
	if long {
		times = 100
	}
	var all []time.Duration
	for _, tr := range transports {
		for _, st := range stays {
			for _, su := range surfaces {
				if st.whole == "-" && !su.stream {
					continue
				}
				t.Run(tr.name+"/"+st.name+"/"+su.name, func(t *testing.T) {
					leavesNothing(t)
					o := st.engine
					o.Dialect = su.dialect
					s := startSite(t, tr, o)
					all = append(all, st.run(s, &su, times)...)
				})
			}
		}
	}
	if p99 := report(t, "all", all); long && p99 > abortLimit {
		t.Errorf("p99 %v, want at most %v", p99, abortLimit)
	}
}

// run lets clients leave in every way and returns how long the engine went on
// for each.
func (st *stay) run(s *site, su *surface, times int) (all []time.Duration) {
	if st.full {
		hold := s.dial()
		tag := s.tag()
		hold.send(su.request(10, tag, `"mock_prefill_ms":3600000`))
		s.await(tag, "in its place", func(r *mockvllm.Entry) bool { return r.State == mockvllm.StatePrefill })
		defer func() {
			s.gone++
			hold.Close()
			s.await(tag, "aborted", isAborted)
			s.nothingLeft()
			s.notBlamed()
		}()
	}
	for _, d := range departures {
		var took []time.Duration
		for range times {
			took = append(took, st.once(s, su, d))
		}
		report(s.t, d.name, took)
		all = append(all, took...)
	}
	if !st.full {
		s.nothingLeft()
		s.notBlamed()
	}
	return all
}

// once lets one client leave and returns how long the engine went on for it.
func (st *stay) once(s *site, su *surface, d departure) time.Duration {
	s.t.Helper()
	c := s.dial()
	defer c.Close()
	tag, more := s.tag(), st.whole
	if su.stream {
		more = st.stream
	}
	c.send(su.request(max(st.tokens, 4), tag, more))
	s.await(tag, "in the phase "+st.name, st.there)
	if su.stream {
		if _, err := io.CopyN(io.Discard, c.br, int64(st.read)); err != nil {
			s.t.Fatal(err)
		}
	}
	left := time.Now()
	d.leave(c.Conn)
	s.gone++
	row := s.await(tag, "to its end", (*mockvllm.Entry).Ended)
	if row.State != mockvllm.StateAborted {
		s.t.Fatalf("%s: the engine saw %+v", d.name, row)
	}
	return row.Aborted.Sub(left)
}

func isAborted(r *mockvllm.Entry) bool { return r.State == mockvllm.StateAborted }
