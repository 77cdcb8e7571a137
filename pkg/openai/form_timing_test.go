package openai

import (
	"io"
	"math/rand/v2"
	"testing"
)

// BenchmarkForm passes over a piece of a file, as much as one read of a body has:
// of random bytes, as compressed audio is, and of beginnings of boundaries.
func BenchmarkForm(b *testing.B) {
	random := make([]byte, 64<<10)
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range random {
		random[i] = byte(rnd.Uint32())
	}
	for name, p := range map[string][]byte{"audio": random, "worst": worstFile} {
		b.Run(name, func(b *testing.B) {
			f, err := NewForm("multipart/form-data; boundary=XX")
			if err != nil {
				b.Fatal(err)
			}
			io.WriteString(f, part(`name="file"; filename="x"`, ""))
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := f.Write(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
