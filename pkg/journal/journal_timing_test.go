package journal

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// BenchmarkWrite appends records of 600 bytes, which are acknowledged and removed outside the clock.
func BenchmarkWrite(b *testing.B) {
	record := bytes.Repeat([]byte("x"), 600)
	for _, size := range []int{1, 16, 256} {
		b.Run(fmt.Sprint("batch=", size), func(b *testing.B) {
			j, err := Open(b.TempDir(), Options{Retention: time.Nanosecond})
			if err != nil {
				b.Fatal(err)
			}
			defer j.Close()
			var batch Batch
			b.ReportAllocs()
			start := time.Now()
			for n := 0; b.Loop(); n += size {
				batch.Reset()
				for range size {
					if err := batch.Add(record); err != nil {
						b.Fatal(err)
					}
				}
				if err := j.Write(&batch); err != nil {
					b.Fatal(err)
				}
				if n%(1<<19) == 0 { // the disk of the machine that tests is not endless
					b.StopTimer()
					if err := j.Ack(j.Last()); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			}
			b.ReportMetric(float64(j.Stats().Records)/time.Since(start).Seconds(), "records/s")
		})
	}
}

// BenchmarkNext reads records of 600 bytes over and over.
func BenchmarkNext(b *testing.B) {
	j, err := Open(b.TempDir(), Options{Sync: SyncOS})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	var batch Batch
	const records = 10_000
	for range records {
		if err := batch.Add(bytes.Repeat([]byte("x"), 600)); err != nil {
			b.Fatal(err)
		}
	}
	if err := j.Write(&batch); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	r := j.Reader(0)
	for n := 0; b.Loop(); n++ {
		if n%records == 0 {
			r.close()
			r = j.Reader(0)
		}
		if _, _, err := r.Next(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
