package mockvllm

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
)

// zeros is a reader of silence.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// TestFileIsNotHeld: a long file costs no memory, and the ledger knows its
// length, its hash and the model named after it.
func TestFileIsNotHeld(t *testing.T) {
	const size = 48 << 20
	e, addr := tcpEngine(t, Options{})
	before, after, _ := strings.Cut(formRequest(speechPath, "FILE", nil, "model", "mock-model", "mock_tag", "long"), "FILE")
	after += strings.Repeat("epilogue", 10000)
	head, start, _ := strings.Cut(before, "\r\n\r\n")
	at := strings.Index(head, "Content-Length: ")
	length := len(start) + size + len(after)
	head = fmt.Sprintf("%sContent-Length: %d\r\n%s", head[:at], length, closing)
	var earlier, later runtime.MemStats
	runtime.ReadMemStats(&earlier)
	c := dial(t, addr)
	sum := sha256.New()
	write(t, c, head+"\r\n\r\n")
	if _, err := io.Copy(io.MultiWriter(c, sum), io.MultiReader(strings.NewReader(start), io.LimitReader(zeros{}, size), strings.NewReader(after))); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&later)
	if grown := later.TotalAlloc - earlier.TotalAlloc; grown > 4<<20 {
		t.Errorf("%d bytes allocated for a file of %d", grown, size)
	}
	seconds := fmt.Sprintf(`"usage":{"type":"duration","seconds":%d}`, (size+audioBytesPerSecond-1)/audioBytesPerSecond)
	if !strings.Contains(string(got), seconds) {
		t.Errorf("no %s in %q", seconds, got)
	}
	row := await(t, e, "ended", func(r Entry) bool { return r.Tag == "long" && r.Ended() })
	if row.BodyBytes != length || row.FileBytes != size || row.BodySHA256 != hex.EncodeToString(sum.Sum(nil)) || row.Model != "mock-model" {
		t.Errorf("row %+v", row)
	}
}

// TestFileIsCutOff: a client that goes inside its file has cost no generation.
func TestFileIsCutOff(t *testing.T) {
	e, addr := tcpEngine(t, Options{})
	c := dial(t, addr)
	raw := formRequest(speechPath, strings.Repeat("w", 100000), nil)
	write(t, c, raw[:50000])
	_ = c.Close()
	row := await(t, e, "ended", func(r Entry) bool { return r.Ended() })
	if row.State != StateAborted || row.AbortPhase != "body" {
		t.Errorf("row %+v", row)
	}
}

// TestPlainSpeech: engines other than vLLM answer text and subtitles in plain text.
func TestPlainSpeech(t *testing.T) {
	s := speech{seconds: 3725.25}
	for format, want := range map[string]string{
		"text": "said\n",
		"srt":  "1\n00:00:00,000 --> 01:02:05,250\nsaid\n\n",
		"vtt":  "WEBVTT\n\n00:00:00.000 --> 01:02:05.250\nsaid\n\n",
	} {
		s.format = format
		if got := s.plain("said"); got != want {
			t.Errorf("%s: %q", format, got)
		}
	}
}
