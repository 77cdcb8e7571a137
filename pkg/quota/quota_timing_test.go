package quota_test

import (
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/quota"
)

func BenchmarkTerm(b *testing.B) {
	var a quota.Account
	loc := zone(b, "Europe/Berlin")
	b.ReportAllocs()
	for b.Loop() {
		if a.Term(noon, quota.Daily, loc) == nil {
			b.Fatal("no term")
		}
	}
}

// BenchmarkNewTerm has each term end before the next call.
func BenchmarkNewTerm(b *testing.B) {
	var a quota.Account
	loc, now := zone(b, "Europe/Berlin"), noon
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if now = now.Add(aDay); n%1000 == 0 {
			now = noon
		}
		a.Term(now, quota.Daily, loc)
	}
}

func BenchmarkReserveAndSettle(b *testing.B) {
	term := today()
	b.ReportAllocs()
	for b.Loop() {
		if !term.Reserve(100, 1000) {
			b.Fatal("refused")
		}
		term.Settle(term.Held(100, 1000), 0)
	}
}

// BenchmarkRequest is all that a request costs, of 100,000 keys.
func BenchmarkRequest(b *testing.B) {
	book := quota.NewBook(keys(100_000))
	ids := make([][8]byte, 1<<16)
	for i := range ids {
		ids[i] = [8]byte{byte(i), byte(i >> 8), 1}
		book.Account(ids[i]).Term(noon, quota.Daily, time.UTC)
	}
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		term := book.Account(ids[n%len(ids)]).Term(noon, quota.Daily, time.UTC)
		if !term.Reserve(100, 1000) {
			b.Fatal("refused")
		}
		term.Settle(term.Held(100, 1000), 0)
	}
}

func BenchmarkOneKeyByAll(b *testing.B) {
	term := today()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if term.Reserve(100, 0) {
				term.Settle(100, 0)
			}
		}
	})
}

func BenchmarkSave100k(b *testing.B) {
	sum, path := keys(100_000), filepath.Join(b.TempDir(), "totals")
	for b.Loop() {
		if err := sum.Save(path); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLoad100k(b *testing.B) {
	path := filepath.Join(b.TempDir(), "totals")
	if err := keys(100_000).Save(path); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := quota.LoadTotals(path); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBook100k makes a book, and says what it keeps in memory.
func BenchmarkBook100k(b *testing.B) {
	sum := keys(100_000)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var book *quota.Book
	for b.Loop() {
		book = quota.NewBook(sum)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/100_000, "B/key")
	runtime.KeepAlive(book)
	runtime.KeepAlive(sum)
}
