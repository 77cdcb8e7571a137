package openai

import (
	"bytes"
	"testing"
)

// BenchmarkScan watches one event of 190 bytes a turn, as a relay does, beside a
// bare search for the event's end.
func BenchmarkScan(b *testing.B) {
	chunk := []byte(tokenChunk)
	run := func(name string, f func()) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(chunk)))
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
	var first, later, cut Events
	later.Scan(chunk)
	cut.Scan(chunk)
	run("later events", func() { later.Scan(chunk) })
	run("later events in two", func() { cut.Scan(chunk[:100]); cut.Scan(chunk[100:]) })
	run("role chunk and first token", func() { first.Reset(); first.Scan([]byte(roleChunk)); first.Scan(chunk) })
	run("bare search", func() {
		if !bytes.Contains(chunk, []byte("\n\n")) {
			b.Fatal("no end")
		}
	})
}

func BenchmarkFirstEvent(b *testing.B) {
	p := []byte(roleChunk)
	b.ReportAllocs()
	for b.Loop() {
		if kind, _ := FirstEvent(p); kind != FirstData {
			b.Fatal(kind)
		}
	}
}

func BenchmarkEngineError(b *testing.B) {
	body := []byte(`{"error":{"message":"The model x does not exist.","type":"NotFoundError","param":"model","code":404}}`)
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		err, _ := EngineError(404, body)
		dst = err.Append(dst[:0])
	}
}
