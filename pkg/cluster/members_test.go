package cluster

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redis"
)

var virtualBeat = virtual(beatLua)

func (s *stage) beat(b beatAsk) (got beatAnswer) {
	s.t.Helper()
	call := b.call("p:")
	call.Script, call.Args = virtualBeat, append(call.Args, strconv.FormatInt(s.now, 10))
	m, err := s.client.Run(call, promptly)
	if err == nil {
		err = got.read(m)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return got
}

func names(all []Gateway) (names []string) {
	for _, g := range all {
		names = append(names, g.Node)
	}
	return names
}

func (s *stage) wantGateways(got beatAnswer, want ...string) {
	s.t.Helper()
	if !slices.Equal(names(got.gateways), want) {
		s.t.Errorf("there are %q, want %q", names(got.gateways), want)
	}
}

func TestGatewaysComeAndGo(t *testing.T) {
	s := newStage(t)
	ask := func(node string, beat int64) beatAsk { return beatAsk{tag: "g", node: node, beat: beat} }
	s.beat(ask("c", 1))
	s.beat(ask("a", 1))
	s.wantGateways(s.beat(ask("b", 1)), "a", "b", "c")
	if got := s.beat(ask("b", 2)); got.before != 1 || got.now != s.now || len(got.runID) != 40 {
		t.Errorf("%+v", got)
	}
	gone := ask("a", 2)
	gone.gone = true
	s.wantGateways(s.beat(gone), "b", "c")
	if s.beat(gone).before != 0 {
		t.Error("what has gone was still there")
	}
	for n := range int64(5) { // c was killed
		s.pass(time.Second)
		s.wantGateways(s.beat(ask("b", 3+n)), "b", "c")
	}
	s.pass(time.Millisecond)
	s.wantGateways(s.beat(ask("b", 9)), "b")
	if got := s.beat(ask("c", 2)); got.before != 1 {
		t.Errorf("its beat was %d, want 1", got.before)
	}
	s.pass(time.Hour + time.Second)
	s.beat(ask("b", 10))
	if n := s.server.Must("HLEN", "p:{g}:gateways"); n != "1" {
		t.Errorf("%s entries are kept after an hour, want that of the one that is there", n)
	}
	if left := s.left("p:{g}:gateways"); left < 30*time.Minute || left > time.Hour {
		t.Errorf("the key is kept for %v", left)
	}
}

func TestWhatAGatewaySaysOfItself(t *testing.T) {
	s := newStage(t)
	self := Gateway{
		Node: "a", Host: "h\n\"1\"", Version: "v1", Config: "d", Started: time.Unix(1790000000, 0).UTC(),
		Skew: -1500 * time.Millisecond,
	}
	text, err := json.Marshal(self)
	if err != nil || !strings.Contains(string(text), `"clock_skew_seconds":-1.5`) || !strings.Contains(string(text), `"started_at":"2026`) {
		t.Fatalf("%s, %v", text, err)
	}
	s.beat(beatAsk{tag: "g", node: "a", beat: 1, self: text})
	s.beat(beatAsk{tag: "g", node: "of another version", beat: 1, self: []byte(`{"node":{}}`)})
	s.pass(time.Second)
	got := s.beat(beatAsk{tag: "g", node: "z", beat: math.MaxInt64})
	s.wantGateways(got, "a", "of another version", "z")
	self.Seen = time.UnixMilli(s.now/1000 - 1000)
	if got.gateways[0] != self {
		t.Errorf("%+v, want %+v", got.gateways[0], self)
	}
	if got.gateways[1].Host != "" || got.gateways[1].Seen.IsZero() {
		t.Errorf("%+v", got.gateways[1])
	}
	if got := s.beat(beatAsk{tag: "g", node: "z"}); got.before != math.MaxInt64 {
		t.Errorf("its beat was %d, want %d", got.before, int64(math.MaxInt64))
	}
}

func TestAGatewayFindsOutThatRedisForgot(t *testing.T) {
	s := newStage(t)
	first := s.beat(beatAsk{tag: "g", node: "a", beat: 1})
	s.server.Must("FLUSHALL")
	if got := s.beat(beatAsk{tag: "g", node: "a", beat: 2}); got.before != 0 || got.runID != first.runID {
		t.Errorf("after a flush %+v, want no beat before and run %s", got, first.runID)
	}
	s.server.Restart()
	until(t, "it is back", func() bool {
		_, err := s.client.Do(promptly, "PING")
		return err == nil
	})
	if got := s.beat(beatAsk{tag: "g", node: "a", beat: 3}); got.before != 0 || got.runID == first.runID || got.runID == "" {
		t.Errorf("after a restart %+v, want no beat before and another run than %s", got, first.runID)
	}
}

// After a failover the clock may be behind: whoever was seen before is there, and whoever
// was killed is not for ever.
func TestTheClockGoesBackAndTheDeadGo(t *testing.T) {
	s := newStage(t)
	s.beat(beatAsk{tag: "g", node: "killed", beat: 1})
	s.pass(-time.Hour)
	s.wantGateways(s.beat(beatAsk{tag: "g", node: "a", beat: 1}), "a", "killed")
	s.pass(5 * time.Second)
	s.wantGateways(s.beat(beatAsk{tag: "g", node: "a", beat: 2}), "a", "killed")
	s.pass(time.Second)
	s.wantGateways(s.beat(beatAsk{tag: "g", node: "a", beat: 3}), "a")
}

// A hash that somebody else wrote to is no reason to fail, and is cleaned.
func TestWhatIsNoBeatIsDropped(t *testing.T) {
	s := newStage(t)
	s.server.Must("HSET", "p:{g}:gateways", "x", "something", "a", "something", "y", "-1 2 {}")
	if got := s.beat(beatAsk{tag: "g", node: "a", beat: 7}); got.before != 0 || len(got.gateways) != 1 {
		t.Errorf("%+v", got)
	}
	if n := s.server.Must("HLEN", "p:{g}:gateways"); n != "1" {
		t.Errorf("%s entries", n)
	}
}

// A user that may not ask for INFO is told no run, and all else.
func TestABeatWithoutInfo(t *testing.T) {
	s := newStage(t)
	s.server.Must("ACL", "SETUSER", "default", "-info")
	if got := s.beat(beatAsk{tag: "g", node: "a", beat: 1}); got.runID != "" || len(got.gateways) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestTheKeyOfABeat(t *testing.T) {
	call := (&beatAsk{tag: "gateways3", node: "a"}).call("llmproxy:")
	if len(call.Keys) != 1 || call.Keys[0] != "llmproxy:{gateways3}:gateways" || redis.Slot(call.Keys[0]) != redis.Slot("gateways3") {
		t.Errorf("keys %q", call.Keys)
	}
}

func TestSkewsThatAreNone(t *testing.T) {
	for _, c := range []struct {
		json string
		want time.Duration
	}{
		{`{"clock_skew_seconds":0.0000000005}`, 1},
		{`{"clock_skew_seconds":1e300}`, math.MaxInt64 / 2},
		{`{"clock_skew_seconds":-1e300}`, -math.MaxInt64 / 2},
		{`{}`, 0},
	} {
		var g Gateway
		if err := json.Unmarshal([]byte(c.json), &g); err != nil || g.Skew < c.want-1024 || g.Skew > c.want+1024 || (g.Skew < 0) != (c.want < 0) {
			t.Errorf("%s: %v, %v", c.json, g.Skew, err)
		}
	}
	var g Gateway
	if json.Unmarshal([]byte(`{"node":1}`), &g) == nil {
		t.Error("a number was read as a name")
	}
}

const runText = "0123456789012345678901234567890123456789"

func TestReadsBeatsAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		name   string
		values []any
		ok     bool
	}{
		{"alone", []any{7, runText, "0"}, true},
		{"two, not in order", []any{7, runText, "12", "b", 5, "{}", "a", 5, ""}, true},
		{"a beat that is none", []any{7, runText, "x"}, false},
		{"a beat below zero", []any{7, runText, "-1"}, false},
		{"one that is cut off", []any{7, runText, "0", "a", 5}, false},
		{"a time that is a text", []any{7, runText, "0", "a", "5", ""}, false},
		{"nothing", nil, false},
	} {
		m, ok := message(bytesOf(c.values...))
		if !ok {
			t.Fatal(c.name)
		}
		var got beatAnswer
		if err := got.read(m); (err == nil) != c.ok {
			t.Errorf("%s: %v, %+v", c.name, err, got)
		}
		if !slices.IsSorted(names(got.gateways)) {
			t.Errorf("%s: %q", c.name, names(got.gateways))
		}
	}
}

// Whatever a server answers and gateways say, nothing panics, and what is read is sorted.
func FuzzReadBeat(f *testing.F) {
	f.Add(bytesOf(7, runText, "12", "b", 5, `{"node":"b","clock_skew_seconds":1e99}`, "a", 5, ""))
	f.Add(bytesOf(7, runText, "0"))
	f.Add([]byte("$\x05MOVED-\x03ERR_\x00#\x01\x01*\x00%\x00,\x031.5"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, ok := message(data)
		if !ok {
			return
		}
		var a beatAnswer
		if a.read(m) != nil {
			return
		}
		if a.now < 0 || a.before < 0 || !slices.IsSorted(names(a.gateways)) {
			t.Errorf("%+v", a)
		}
		for _, g := range a.gateways {
			if _, err := json.Marshal(g); err != nil && g.Seen.Year() < 10000 && g.Started.Year() < 10000 {
				t.Errorf("%+v: %v", g, err)
			}
		}
	})
}
