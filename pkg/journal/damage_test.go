package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func checksum(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(nil, crc32.Checksum(b, castagnoli))
}

// sample is a segment with records of several lengths, and where each frame begins and the last one ends.
func sample(t testing.TB, records ...string) (content []byte, mark uint32, edges []int) {
	mark = 0x5eed1234
	b := batch(records...)
	b.stamp(1, 42)
	sign(b.frames, mark)
	content = append(header(mark, 1), b.frames...)
	edges = []int{headerSize}
	for _, r := range records {
		edges = append(edges, edges[len(edges)-1]+frameSize+len(r))
	}
	if edges[len(edges)-1] != len(content) {
		t.Fatal("the sample is not what it should be")
	}
	return content, mark, edges
}

// place makes content the only segment of a directory.
func place(t testing.TB, dir string, mark uint32, content []byte) string {
	path := segmentPath(dir, 1, mark)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTornTailAtEveryOffset(t *testing.T) {
	records := []string{"first", "", strings.Repeat("third ", 20), "last"}
	content, mark, edges := sample(t, records...)
	quick := newFaultyDisk(0, 0).disk() // without faults, and without the real fsync
	for n := headerSize; n <= len(content); n++ {
		dir := filepath.Join(t.TempDir(), "journal")
		os.Mkdir(dir, 0o700)
		path := place(t, dir, mark, content[:n])
		whole := 0
		for whole+1 < len(edges) && edges[whole+1] <= n {
			whole++
		}
		got, report := scanned(t, dir)
		if torn := int64(n - edges[whole]); !slices.Equal(got, records[:whole]) || report.Torn != torn || report.Corrupt != nil {
			t.Fatalf("cut at %d: scanned %q, %+v, want %d records and %d torn bytes", n, got, report, whole, torn)
		}
		var l log
		j, err := open(dir, Options{Log: l.add, Sync: SyncOS}, quick)
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if told := strings.Contains(l.String(), path); told != (n != edges[whole]) {
			t.Fatalf("cut at %d: told %q", n, l.String())
		}
		write(t, j, "after the crash")
		if j.Last() != uint64(whole+1) {
			t.Fatalf("cut at %d: the next record got number %d", n, j.Last())
		}
		j.Close()
		got, report = scanned(t, dir)
		if want := append(slices.Clone(records[:whole]), "after the crash"); !slices.Equal(got, want) || report.Torn != 0 || report.Corrupt != nil {
			t.Fatalf("cut at %d: scanned %q, %+v after the repair", n, got, report)
		}
	}
}

func TestEveryBitFlip(t *testing.T) {
	records := []string{"first", "the second one", "", "fourth", "fifth"}
	content, mark, edges := sample(t, records...)
	dir := t.TempDir()
	for bit := range len(content) * 8 {
		flipped := slices.Clone(content)
		flipped[bit/8] ^= 1 << (bit % 8)
		path := place(t, dir, mark, flipped)
		hit := -1 // the record that the bit belongs to; -1: the header
		for hit+1 < len(edges) && bit/8 >= edges[hit+1] {
			hit++
		}
		got, report := scanned(t, dir)
		want := slices.Clone(records)
		if hit >= 0 {
			want = slices.Delete(want, hit, hit+1)
		}
		if !slices.Equal(got, want) {
			t.Fatalf("bit %d: read %q, want %q", bit, got, want)
		}
		switch hit {
		case -1:
			if len(report.Corrupt) != 1 || report.Corrupt[0] != (Fault{File: path, Bytes: headerSize}) {
				t.Fatalf("bit %d: %+v", bit, report)
			}
		case len(records) - 1:
			if report.Torn != int64(edges[hit+1]-edges[hit]) || report.Corrupt != nil {
				t.Fatalf("bit %d: %+v", bit, report)
			}
		default:
			fault := Fault{File: path, Offset: int64(edges[hit]), Bytes: int64(edges[hit+1] - edges[hit]), Records: 1}
			if len(report.Corrupt) != 1 || report.Corrupt[0] != fault || report.Torn != 0 {
				t.Fatalf("bit %d: %+v, want %+v", bit, report, fault)
			}
		}
	}
}

func TestOpenAndWriteAfterDamage(t *testing.T) {
	records := []string{"first", "second", "third", "fourth"}
	cases := []struct {
		name  string
		spoil func(content []byte, edges []int) []byte
		want  []string
		last  uint64
		told  string
	}{
		{
			"a flip in the middle hid all behind it",
			func(c []byte, e []int) []byte { c[e[1]+frameSize] ^= 1; return c },
			[]string{"first", "third", "fourth"},
			4, "damaged or missing",
		},
		{
			"a damaged length hid all behind it",
			func(c []byte, e []int) []byte { c[e[1]+8] = 0xff; return c },
			[]string{"first", "third", "fourth"},
			4, "damaged or missing",
		},
		{
			"a damaged header hid the segment, or was appended to",
			func(c []byte, _ []int) []byte { clear(c[:headerSize]); return c },
			records, 4, "damaged header",
		},
		{
			"the header and the first record: only those",
			func(c []byte, e []int) []byte { clear(c[:e[1]]); return c },
			[]string{"second", "third", "fourth"},
			4, "damaged header",
		},
		{
			"a sector of zeros at the end, as a power loss leaves it",
			func(c []byte, e []int) []byte { clear(c[e[3]:]); return append(c, make([]byte, 4096)...) },
			[]string{"first", "second", "third"},
			3, "torn tail",
		},
		{
			"an old frame again, as a misdirected write leaves it",
			func(c []byte, e []int) []byte { return append(c, c[e[0]:e[2]]...) },
			records, 4, "torn tail",
		},
		{
			"nothing but damage",
			func(c []byte, _ []int) []byte { clear(c); return c }, nil, 0, "no readable record",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			content, mark, edges := sample(t, records...)
			place(t, dir, mark, c.spoil(content, edges))
			var l log
			j := openTest(t, dir, Options{Log: l.add, Sync: SyncOS})
			if j.Last() != c.last {
				t.Errorf("the last record is %d, want %d", j.Last(), c.last)
			}
			var got []string
			write(t, j, "new")
			r := j.Reader(0)
			for range len(c.want) + 1 {
				_, record, err := r.Next(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(record))
			}
			if want := append(slices.Clone(c.want), "new"); !slices.Equal(got, want) {
				t.Errorf("read %q, want %q", got, want)
			}
			if !strings.Contains(l.String(), c.told) {
				t.Errorf("told %q, want %q", l.String(), c.told)
			}
		})
	}
}

// TestRecordThatLooksLikeFrames: whoever can choose a record must not be able to make others of it by damage.
func TestRecordThatLooksLikeFrames(t *testing.T) {
	forged, _, _ := sample(t, "harmless", "forged")
	content, mark, edges := sample(t, "first", string(forged[headerSize:]), "third")
	mark++
	copy(content, header(mark, 1))
	sign(content[headerSize:], mark)
	content[edges[1]+9] ^= 1
	dir := t.TempDir()
	place(t, dir, mark, content)
	if got, _ := scanned(t, dir); !slices.Equal(got, []string{"first", "third"}) {
		t.Errorf("read %q", got)
	}
}

func TestMissingSegmentIsReported(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{SegmentSize: 128, Sync: SyncOS})
	for i := range 20 {
		write(t, j, fmt.Sprintf("%02d", i+1))
	}
	j.Close()
	paths := segments(t, dir)
	os.Remove(paths[2])
	_, report := scanned(t, dir)
	want := Fault{File: paths[3], Offset: headerSize, Records: 3}
	if len(report.Corrupt) != 1 || report.Corrupt[0] != want || report.Records != 17 || report.Last != 20 {
		t.Errorf("%+v, want %+v", report, want)
	}
}

func TestDamagedCursorBringsRecordsAgain(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{})
	write(t, j, "1", "2", "3")
	if err := j.Ack(2); err != nil {
		t.Fatal(err)
	}
	j.Close()
	path := filepath.Join(dir, cursorName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[0] = '3' // would skip a record
	os.WriteFile(path, text, 0o600)
	var l log
	j = openTest(t, dir, Options{Log: l.add})
	if j.Acked() != 0 || !strings.Contains(l.String(), path) {
		t.Errorf("acknowledged %d, told %q", j.Acked(), l.String())
	}
}

// FuzzSegment reads any bytes as a segment: no panic, and a record only where a whole frame with the right mark is.
func FuzzSegment(f *testing.F) {
	content, mark, _ := sample(f, "first", "", strings.Repeat("third ", 20), "last")
	f.Add(content, uint16(0), byte(0))
	f.Add(content, uint16(100), byte(1))
	f.Add(append(slices.Clone(content), content...), uint16(3), byte(255))
	f.Fuzz(func(t *testing.T, content []byte, at uint16, xor byte) {
		if len(content) > 0 {
			content = slices.Clone(content)
			content[int(at)%len(content)] ^= xor
		}
		seg := &segment{mark: mark, first: 1, whole: at%2 == 0}
		var tp tape
		tp.rewind(bytes.NewReader(content), seg)
		var last uint64
		var covered int64
		for {
			fr, skipped, err := tp.next(int64(len(content)), 0)
			covered += skipped
			if err != nil {
				break
			}
			covered += frameSize + int64(len(fr.record))
			whole := content[fr.at:][:frameSize+len(fr.record)]
			if fr.seq <= last || !bytes.Equal(whole[:4], checksum(whole[4:])) || !bytes.Equal(whole[frameSize:], fr.record) {
				t.Fatalf("invented record %d at %d", fr.seq, fr.at)
			}
			last = fr.seq
		}
		if want := int64(len(content)) - headerSize; covered != max(want, 0) {
			t.Fatalf("%d of %d bytes are accounted for", covered, want)
		}
	})
}

func TestAcknowledgedNumbersAreNotUsedAgain(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{Sync: SyncOS})
	write(t, j, "1", "2", "3")
	if err := j.Ack(3); err != nil {
		t.Fatal(err)
	}
	j.Close()
	os.Truncate(segments(t, dir)[0], headerSize) // a power loss, with SyncOS
	for i := range 2 {
		j = openTest(t, dir, Options{Sync: SyncOS})
		r := j.Reader(j.Acked())
		write(t, j, "new")
		wantNext(t, r, uint64(4+i), "new")
		if err := j.Ack(uint64(4 + i)); err != nil {
			t.Fatal(err)
		}
		j.Close()
	}
}

// TestScanOfAJournalThatMoves: meanwhile segments are acknowledged and removed, and a failed write is taken back.
func TestScanOfAJournalThatMoves(t *testing.T) {
	dir := t.TempDir()
	j := openTest(t, dir, Options{SegmentSize: 128, Retention: time.Nanosecond, Sync: SyncOS})
	for i := 1; i <= 30; i++ {
		write(t, j, fmt.Sprintf("%02d", i))
	}
	paths := segments(t, dir)
	newest := paths[len(paths)-1]
	size := j.newest().size
	os.Truncate(newest, size+1<<20)
	var seen []uint64
	report, err := Scan(dir, func(seq uint64, _ []byte) error {
		if seen = append(seen, seq); seq == 1 {
			return errors.Join(j.Ack(20), j.Ack(21))
		}
		if seq == 28 {
			return os.Truncate(newest, size)
		}
		return nil
	})
	if err != nil || report.Corrupt != nil || seen[0] != 1 || report.Last != 30 {
		t.Errorf("%v, %+v, read %d", err, report, seen)
	}
}
