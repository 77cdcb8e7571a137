package cluster

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/limit"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

var full = ask{
	tag: "0123456789abcdef", requests: 1, tokens: 1234, lease: "gateway-1.7", ttl: 30 * time.Second, notAfter: 1790000000000000,
	limits: &limit.Limits{PerSecond: limit.PerSecond(10, 20), PerMinute: limit.PerMinute(600), Tokens: limit.PerMinute(1e5), Concurrent: 8},
	quota:  quotaAsk{node: "gateway-1", start: 1, end: 1790000000000000999, used: 5, limit: 1e6, hold: 1234},
}

// A Cluster refuses a script whose keys are in two slots, and what gateways of two
// versions disagree about is not shared.
func TestCallsAreAsTheyAreAgreedOn(t *testing.T) {
	forever := full
	forever.quota.end, forever.limits, forever.quota.tooMuch = math.MaxInt64, &limit.Limits{}, true
	none := full
	none.quota, none.lease, none.notAfter = quotaAsk{tooMuch: true, hold: 5}, "", -1
	m := member("gateway-1.7", 1234, 1234, 1)
	for name, c := range map[string]struct {
		call redis.Call
		args string
	}{
		"all": {
			full.call("llmproxy:"), "30000 600000 00000000000000000001 1790000000000000 gateway-1 5 " +
				"1790000000000000 100000000 20 100000000 600 100000 1234 8 1 gateway-1.7 1000000 1234 0",
		},
		"no rate, no end, too much": {
			forever.call("llmproxy:"), "30000 0 00000000000000000001 0 gateway-1 5 " +
				"1790000000000000 0 1 0 1 1 0 0 1 gateway-1.7 1000000 1234 1",
		},
		"no quota, no lease": {
			none.call("llmproxy:"), "30000 600000     0 100000000 20 100000000 600 100000 1234 8 1  0 0 0",
		},
		"settled": {
			(&settlement{tag: full.tag, lease: m, keep: m, ttl: time.Second, tokens: full.limits.Tokens, charge: 9, quota: full.quota}).call("llmproxy:"),
			"1000 600000 00000000000000000001 1790000000000000 gateway-1 5 " + m + " " + m + " 9",
		},
		"settled, nothing": {(&settlement{tag: full.tag, charge: -1}).call("llmproxy:"), "0 0       0"},
	} {
		if got := strings.Join(c.call.Args, " "); got != c.args {
			t.Errorf("%s:\ngot  %s\nwant %s", name, got, c.args)
		}
		want := []string{"llmproxy:{0123456789abcdef}:b", "llmproxy:{0123456789abcdef}:c", "llmproxy:{0123456789abcdef}:q"}
		if !slices.Equal(c.call.Keys, want) {
			t.Errorf("%s: keys %q, want %q", name, c.call.Keys, want)
		}
		for _, k := range c.call.Keys {
			if redis.Slot(k) != redis.Slot(full.tag) {
				t.Errorf("%s: %s is in slot %d, its tag in %d", name, k, redis.Slot(k), redis.Slot(full.tag))
			}
		}
	}
	if want := "gateway-1.7:1234:1234:00000000000000000001"; m != want {
		t.Errorf("member %q, want %q", m, want)
	}
}

// message makes a reply of bytes, so that every one that there can be is made by
// some: a type, and a length or a number, for each item.
func message(data []byte) (m rueidis.RedisMessage, ok bool) {
	const list = '*'
	items := []byte(nil)
	n := 0
	for ; len(data) >= 2 && n < 20; n++ {
		kind, arg := data[0], int(data[1])
		data = data[2:]
		items = append(items, kind)
		switch kind {
		case list, '%', '~':
			items = binary.BigEndian.AppendUint64(items, 0)
		case ':', '_', '#':
			var number [8]byte
			data = data[copy(number[:], data[:min(arg%9, len(data))]):]
			items = append(items, number[:]...)
		default:
			text := data[:min(arg, len(data))]
			data = data[len(text):]
			items = append(binary.BigEndian.AppendUint64(items, uint64(len(text))), text...)
		}
	}
	head := append(make([]byte, 7), list)
	head = binary.BigEndian.AppendUint64(head, uint64(n))
	return m, m.CacheUnmarshalView(append(head, items...)) == nil
}

// bytesOf is the inverse of message.
func bytesOf(values ...any) (data []byte) {
	for _, v := range values {
		switch v := v.(type) {
		case int:
			data = binary.BigEndian.AppendUint64(append(data, ':', 8), uint64(v))
		case string:
			data = append(append(data, '$', byte(len(v))), v...)
		}
	}
	return data
}

const startText = "01790000000000000000"

func TestReadsWhatTheScriptsAnswerAndNothingElse(t *testing.T) {
	for _, c := range []struct {
		name   string
		values []any
		want   answer
		ok     bool
	}{
		{"late", []any{7}, answer{now: 7, late: true}, true},
		{"let in", []any{7, 0, 0, 0, 1, 2, 3, 4, 5, startText, 6, 8, 9}, answer{
			now: 7, second: 1000, minute: 2000, tokens: 3000, reserved: 4, inFlight: 5,
			start: 1790000000000000000, used: 6, quotaReserved: 8, own: 9,
		}, true},
		{"refused", []any{7, 3, longest, 1, 1, 2, 3, 4, 5, "", 0, 0, 0}, answer{
			now: 7, by: 3, wait: longest * time.Microsecond, exhausted: true, second: 1000, minute: 2000, tokens: 3000, reserved: 4, inFlight: 5,
		}, true},
		{"a limit that there is not", []any{7, 200, 0, 0, 1, 2, 3, 4, 5, startText, 6, 8, 9}, answer{}, false},
		{"a wait that overflows", []any{7, 1, longest + 1, 0, 1, 2, 3, 4, 5, startText, 6, 8, 9}, answer{}, false},
		{"less than nothing", []any{7, 0, 0, 0, 1, 2, 3, -4, 5, startText, 6, 8, 9}, answer{}, false},
		{"a start that is short", []any{7, 0, 0, 0, 1, 2, 3, 4, 5, "1790000000000000000", 6, 8, 9}, answer{}, false},
		{"a start that is a number", []any{7, 0, 0, 0, 1, 2, 3, 4, 5, 1790000000000000000, 6, 8, 9}, answer{}, false},
		{"too few", []any{7, 0, 0}, answer{}, false},
		{"too many", []any{7, 0, 0, 0, 1, 2, 3, 4, 5, startText, 6, 8, 9, 10}, answer{}, false},
		{"none", nil, answer{}, false},
	} {
		m, ok := message(bytesOf(c.values...))
		if !ok {
			t.Fatal(c.name)
		}
		var got answer
		if err := got.read(m); (err == nil) != c.ok || c.ok && got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
	var r settled
	m, _ := message(bytesOf(7, startText, 6, 9))
	if err := r.read(m); err != nil || r != (settled{7, 1790000000000000000, 6, 9}) {
		t.Errorf("settled: %+v, %v", r, err)
	}
	if err := r.read(rueidis.RedisMessage{}); err == nil {
		t.Error("nothing was read as an answer")
	}
}

// A server that is another's, or has another version's keys, is no reason to panic
// or to believe in a wait of centuries.
func FuzzReadAnswer(f *testing.F) {
	f.Add(bytesOf(7))
	f.Add(bytesOf(7, 3, 1000000, 1, 1, 2, 3, 4, 5, startText, 6, 8, 9))
	f.Add(bytesOf(7, startText, 6, 9))
	f.Add([]byte("$\x05MOVED-\x03ERR_\x00#\x01\x01*\x00%\x00,\x031.5"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, ok := message(data)
		if !ok {
			return
		}
		var r answer
		if err := r.read(m); err == nil {
			for _, d := range []time.Duration{r.wait, r.second, r.minute, r.tokens} {
				if d < 0 {
					t.Errorf("%+v", r)
				}
			}
			if min(r.now, r.reserved, r.inFlight, r.start, r.used, r.quotaReserved, r.own) < 0 || r.by.String() == "" && r.by != 0 {
				t.Errorf("%+v", r)
			}
		}
		var w settled
		if err := w.read(m); err == nil && min(w.now, w.start, w.used, w.own) < 0 {
			t.Errorf("%+v", w)
		}
	})
}
