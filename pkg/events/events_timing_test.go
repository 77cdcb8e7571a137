package events

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/journal"
)

// cpu is what this process has used, in user and in kernel mode.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// drop lets the journal go of everything, so that the disk does not fill.
func drop(b *testing.B, l *Log) {
	if err := l.journal.Ack(l.journal.Last()); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRequest is what a request pays: a START and an END, each in the
// kernel's hands. One goroutine writes each record for itself; many share.
func BenchmarkRequest(b *testing.B) {
	for _, goroutines := range []int{1, 64} {
		b.Run(fmt.Sprint("goroutines=", goroutines), func(b *testing.B) {
			l := openTest(b, b.TempDir(), journal.Options{Retention: 1})
			b.ReportAllocs()
			used := cpu(b)
			b.ResetTimer()
			var all sync.WaitGroup
			for g := range goroutines {
				all.Go(func() {
					r := request(g)
					for n := g; n < b.N; n += goroutines {
						l.Start(r)
						l.End(r)
					}
				})
			}
			all.Wait()
			b.StopTimer()
			b.ReportMetric(float64(cpu(b)-used)/float64(2*b.N), "cpu-ns/record")
			b.ReportMetric(float64(2*b.N)/b.Elapsed().Seconds(), "records/s")
			drop(b, l)
		})
	}
}

// BenchmarkAppend is the writer alone, with all the records it can take at once.
func BenchmarkAppend(b *testing.B) {
	l := openTest(b, b.TempDir(), journal.Options{Retention: 1})
	b.ReportAllocs()
	r := request(1)
	used := cpu(b)
	b.ResetTimer()
	for n := uint64(1); n <= uint64(b.N); n++ {
		l.put(r, kindEnd)
		if n%batchSize == 0 {
			l.flush(n)
		}
	}
	l.flush(l.tail.Load())
	b.StopTimer()
	b.ReportMetric(float64(cpu(b)-used)/float64(b.N), "cpu-ns/record")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
	drop(b, l)
}

func BenchmarkEncode(b *testing.B) {
	r := request(1)
	buf := make([]byte, 0, slotSize)
	b.ReportAllocs()
	for b.Loop() {
		buf = r.append(buf[:0], kindEnd)
	}
}

func BenchmarkRender(b *testing.B) {
	r := request(1)
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = r.appendEvent(buf[:0], "gw-1", 1)
	}
}

// BenchmarkDeliver reads, renders and sends events that wait.
func BenchmarkDeliver(b *testing.B) {
	r := newReceiver(b, ok)
	l := openTest(b, b.TempDir(), journal.Options{})
	for n := range b.N {
		l.put(request(n), kindStart)
		l.put(request(n), kindEnd)
	}
	l.flush(l.tail.Load())
	b.ReportAllocs()
	b.ResetTimer()
	stop := deliver(b, l, r.URL)
	waitFor(b, "the last answer", func() bool { return l.Stats().Backlog == 0 })
	b.StopTimer()
	stop()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkTail reads events that wait, and what each costs while nothing does.
func BenchmarkTail(b *testing.B) {
	b.Run("event", func(b *testing.B) {
		l := openTest(b, b.TempDir(), journal.Options{Sync: journal.SyncOS})
		for n := range b.N {
			l.put(request(n), kindStart)
			l.put(request(n), kindEnd)
		}
		l.flush(l.tail.Load())
		tail := l.Tail()
		b.ReportAllocs()
		b.ResetTimer()
		if last, err := tail.Each(func(Event) {}); err != nil || last != uint64(b.N) {
			b.Fatal(last, err)
		}
	})
	b.Run("idle", func(b *testing.B) {
		l := openTest(b, b.TempDir(), journal.Options{})
		tail := l.Tail()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := tail.Each(func(Event) {}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkRecovery opens a log with 180,000 requests that nobody acknowledged,
// ten minutes at 300 a second, of which 1,000 are open.
func BenchmarkRecovery(b *testing.B) {
	const requests, open = 180_000, 1000
	dir := b.TempDir()
	l := openTest(b, dir, journal.Options{Sync: journal.SyncOS})
	for n := range requests {
		l.put(request(n), kindStart)
		if n >= open {
			l.put(request(n), kindEnd)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		l := openTest(b, dir, journal.Options{})
		if got := l.Stats().Recorded; got != requests {
			b.Fatal(got, "events")
		}
		l.Close()
	}
}
