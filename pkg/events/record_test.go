package events

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/llmproxy/llmproxy/pkg/journal"
)

const golden = `{"specversion":"1.0","id":"0000000000000000000000000000002a","source":"urn:llmproxy:gw-1",` +
	`"type":"llmproxy.usage","datacontenttype":"application/json","time":"2025-11-23T08:00:01.000000Z",` +
	`"sequence":"00000000000000000007","data":{"request_id":"0000000000000000000000000000002a","key_id":"k_7f3a",` +
	`"key_name":"research","user_id":"u-1","model":"llama-3.3-70b","served_model":"meta-llama/Llama-3.3-70B-Instruct",` +
	`"backend":"h100-1","endpoint":"/v1/chat/completions","stream":true,"status":200,"outcome":"complete","attempts":1,` +
	`"prompt_tokens":42,"cached_tokens":0,"completion_tokens":2,"reasoning_tokens":0,"total_tokens":44,"estimated":false,` +
	`"ttft_ms":80.000,"duration_ms":1000.000,"started":"2025-11-23T08:00:00.000000Z","ended":"2025-11-23T08:00:01.000000Z"}}`

func TestEventGolden(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*Record)
		old, new string // what is different from golden
	}{
		"as documented": {func(*Record) {}, "", ""},
		"a local time is passed off as UTC": {func(r *Record) {
			zone := time.FixedZone("", 3600)
			r.Started, r.Ended = r.Started.In(zone), r.Ended.In(zone)
		}, "", ""},
		"seconds of audio":      {func(r *Record) { r.Seconds = 12.5 }, `44,`, `44,"audio_seconds":12.5,`},
		"infinity is no JSON":   {func(r *Record) { r.Seconds = math.Inf(1) }, "", ""},
		"NaN is no JSON":        {func(r *Record) { r.Seconds = math.NaN() }, "", ""},
		"no first token":        {func(r *Record) { r.TTFT = 0 }, "80.000", "0.000"},
		"microseconds":          {func(r *Record) { r.TTFT = 1234567 * time.Nanosecond }, "80.000", "1.234"},
		"an outcome of its own": {func(r *Record) { r.Outcome = ClientAborted }, `"complete"`, `"client_aborted"`},
		"a quote in a name":     {func(r *Record) { r.Name = `a"b\c` + "\n\x00<" }, "research", `a\"b\\c\n\u0000<`},
		"bytes that are no UTF-8 make the batch unreadable": {func(r *Record) { r.Name = "a\xffb" }, "research", "a\ufffdb"},
	} {
		t.Run(name, func(t *testing.T) {
			r := request(42)
			c.change(r)
			want := golden
			if c.old != "" {
				want = strings.Replace(golden, c.old, c.new, 1)
			}
			if got := string(r.appendEvent(nil, "gw-1", 7)); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestOddTexts(t *testing.T) {
	for name, text := range map[string]string{
		"empty":             "",
		"longer than kept":  strings.Repeat("x", 10<<10),
		"cut in a rune":     strings.Repeat("x", maxText-1) + "é",
		"no UTF-8":          "\xff\xfe\xc3",
		"all control bytes": "\x00\x01\x1f\x7f\u2028\u2029",
		"half a surrogate":  "\xed\xa0\x80",
	} {
		t.Run(name, func(t *testing.T) {
			r := request(1)
			r.KeyID, r.Name, r.UserID, r.Asked, r.Served, r.Backend, r.Endpoint = text, text, text, text, text, text, text
			raw := r.append(nil, kindEnd)
			if len(raw) > journal.MaxRecord {
				t.Fatalf("%d bytes", len(raw))
			}
			e, err := parseEntry(raw)
			if err != nil || e.record.Name != text[:min(len(text), maxText)] || e.record.Endpoint != e.record.Name {
				t.Fatalf("%v: %.20q", err, e.record.Name)
			}
			checkEvent(t, e.record)
		})
	}
}

// checkEvent looks at what is sent of a record with the standard library.
func checkEvent(t *testing.T, r Record) {
	t.Helper()
	b := r.appendEvent(nil, "gw-1", 1)
	var e struct {
		Time time.Time
		Data struct {
			Model   string
			Total   int64 `json:"total_tokens"`
			Started time.Time
		}
	}
	if err := json.Unmarshal(b, &e); err != nil || !utf8.Valid(b) {
		t.Fatalf("%v: %q", err, b)
	}
	if utf8.ValidString(r.Asked) && e.Data.Model != r.Asked || e.Data.Total != r.Total || !e.Data.Started.Equal(r.Started.Truncate(time.Microsecond)) {
		t.Fatalf("sent %+v of %+v", e, r)
	}
}

func FuzzParseEntry(f *testing.F) {
	r := request(42)
	r.Seconds = 1.5
	for _, k := range []kind{kindStart, kindMark, kindEnd, kindVoid} {
		f.Add(r.append(nil, k))
	}
	f.Add([]byte{byte(kindEnd), version})
	for _, k := range []kind{kindStart, kindMark, kindEnd, kindVoid} {
		f.Add(version1(r, k))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := parseEntry(b)
		if err != nil {
			return
		}
		again := e.record.append(nil, e.kind)
		same, err := parseEntry(again)
		if err != nil {
			t.Fatalf("%v in %x, which was written for %x", err, again, b)
		}
		same.event = e.event // the writer of the journal puts that in
		if !bytes.Equal(same.record.append(nil, e.kind), again) || same.record.Outcome != e.record.Outcome || same.record.ID != e.record.ID {
			t.Fatalf("%+v became %+v", e, same)
		}
		if e.kind == kindEnd {
			checkEvent(t, e.record)
		}
	})
}

// version1 is the record as it was written before there was a Period.
func version1(r *Record, k kind) []byte {
	none := *r
	none.Period = 0
	b := none.append(nil, k)
	b[1] = firstVersion
	if k == kindStart || k == kindEnd {
		b = b[:len(b)-1] // the period's
	}
	return b
}

func TestPeriodIsKept(t *testing.T) {
	for name, period := range map[string]int64{
		"none":                    0,
		"a day's":                 time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC).UnixNano(),
		"the first there is":      1,
		"before 1970":             -1,
		"the last there can be":   math.MaxInt64,
		"the first there can be":  math.MinInt64,
		"long after the requests": request(1).Ended.AddDate(100, 0, 0).UnixNano(),
	} {
		for _, k := range []kind{kindStart, kindEnd} {
			r := request(1)
			r.Period = period
			if e, err := parseEntry(r.append(nil, k)); err != nil || e.record != *r {
				t.Errorf("%s: got %+v, %v", name, e.record, err)
			}
		}
	}
}

func TestOtherVersions(t *testing.T) {
	for _, k := range []kind{kindStart, kindMark, kindEnd, kindVoid} {
		r := request(3)
		r.Period = 77
		now, old := r.append(nil, k), version1(r, k)
		want, err := parseEntry(now)
		if err != nil {
			t.Fatal(err)
		}
		want.record.Period = 0
		if got, err := parseEntry(old); err != nil || got != want {
			t.Errorf("kind %d of the first version: got %+v, %v, want %+v", k, got, err, want)
		}
		for _, v := range []byte{0, version + 1, 255} {
			now[1] = v
			if _, err := parseEntry(now); err == nil {
				t.Errorf("kind %d of version %d is read", k, v)
			}
		}
		if k == kindStart || k == kindEnd { // one is not the other with another number
			old[1] = version
			if _, err := parseEntry(old); err == nil {
				t.Errorf("kind %d without a period is read as one with it", k)
			}
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add("name", "model", int64(1), int64(2), 0.5, true, byte(0))
	f.Add("\xff", strings.Repeat("x", 600), int64(math.MaxInt64), int64(math.MinInt64), math.Inf(1), false, byte(3))
	f.Fuzz(func(t *testing.T, name, model string, tokens, nanos int64, seconds float64, on bool, outcome byte) {
		r := Record{
			Name: name, Asked: model, Endpoint: name, Prompt: tokens, Total: tokens, Seconds: seconds, Streamed: on, Estimated: !on,
			Outcome: Outcome(outcome) % nOutcomes, Status: 200, TTFT: time.Duration(tokens), Duration: time.Duration(nanos / 2), Started: time.Unix(0, nanos/2).UTC(),
			Period: nanos ^ tokens,
		}
		r.Ended = r.Started.Add(r.Duration)
		want := r
		for _, s := range []*string{&want.Name, &want.Asked, &want.Endpoint} {
			*s = (*s)[:min(len(*s), maxText)]
		}
		e, err := parseEntry(r.append(nil, kindEnd))
		if err != nil {
			t.Fatal(err)
		}
		if math.IsNaN(seconds) {
			e.record.Seconds, want.Seconds = 0, 0 // never equal
		}
		if e.record != want {
			t.Fatalf("got %+v\nwant %+v", e.record, want)
		}
		checkEvent(t, e.record)
	})
}
