package usage

import (
	"bytes"
	"testing"
)

var seeds = []string{
	"vllm-chat-stream-continuous-usage-n2", "vllm-responses-stream-reasoning", "vllm-messages-stream-tool", "tgi-stream-details",
	"sglang-generate-list", "sglang-generate-stream-is-cumulative", "llamacpp-chat-stream-usage", "vllm-transcription",
}

// FuzzMeter: however an answer is cut, a Meter reads the same.
func FuzzMeter(f *testing.F) {
	for i, name := range seeds {
		_, body := answer(f, name)
		f.Add(body, uint8(i+1), uint16(50*i))
		f.Add(append(bytes.Repeat([]byte("data: [\""), lineLen/7), body...), uint8(i+1), uint16(lineLen))
	}
	f.Fuzz(func(t *testing.T, in []byte, kind uint8, at uint16) {
		var m Meter
		read := func(cut ...[]byte) (got [2]reading) {
			m.Reset(Kind(kind % 9))
			for _, p := range cut {
				m.Scan(p)
			}
			got[0] = readingOf(&m)
			m.Reset(Kind(kind % 9))
			for _, p := range cut {
				m.Whole(p)
			}
			got[1] = readingOf(&m)
			return got
		}
		want := read(in)
		n := min(int(at), len(in))
		if got := read(in[:n], in[n:]); got != want {
			t.Fatalf("cut at %d: got %+v, want %+v", n, got, want)
		}
		var every [][]byte
		for i := range in {
			every = append(every, in[i:i+1])
		}
		if got := read(every...); got != want {
			t.Fatalf("by bytes: got %+v, want %+v", got, want)
		}
	})
}

// FuzzFilter: however a stream is cut, a Filter makes the same of it, and it
// changes nothing where nothing is to be taken out.
func FuzzFilter(f *testing.F) {
	for i, name := range seeds {
		_, body := answer(f, name)
		f.Add(body, uint8(i), uint16(50*i))
	}
	f.Add([]byte(bare+final+chunk0), uint8(3), uint16(90))
	f.Fuzz(func(t *testing.T, in []byte, take uint8, at uint16) {
		var fl Filter
		to := Take{Final: take&1 != 0, Chunks: Chunks(take / 2 % 3)}
		want := filtered(&fl, to, [][]byte{in})
		n := min(int(at), len(in))
		if got := filtered(&fl, to, [][]byte{in[:n], in[n:]}); !bytes.Equal(got, want) {
			t.Fatalf("cut at %d: got %q, want %q", n, got, want)
		}
		var every [][]byte
		for i := range in {
			every = append(every, in[i:i+1])
		}
		if got := filtered(&fl, to, every); !bytes.Equal(got, want) {
			t.Fatalf("by bytes: got %q, want %q", got, want)
		}
		if bytes.Contains(in, []byte(`usage"`)) {
			return
		}
		if !bytes.Equal(want, in) {
			t.Fatalf("got %q, want %q", want, in)
		}
	})
}
