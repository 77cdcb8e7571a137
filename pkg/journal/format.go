package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// MaxRecord is the length of the longest record in bytes.
const MaxRecord = 64 << 10

// A segment is a header and frames, all little-endian:
//
//	header: "llmpjrnl" | version 4 | mark 4 | first sequence number 8 | crc 4
//	frame:  crc 4 | mark 4 | length 4 | sequence number 8 | unix nanoseconds 8 | record
//
// A crc is CRC-32C, the header's of all before it, a frame's of all after it. The mark is random, one for each segment:
// a record that somebody made to look like frames does not become some when the frame around it is damaged. It is in
// the file's name too, so that a damaged header loses no record.
const (
	version    = 1
	headerSize = 28
	frameSize  = 28
	signature  = "llmpjrnl"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var (
	errHeader = errors.New("the header is damaged")
	errNewer  = errors.New("a newer version of this program wrote it: run that version, or give this one another directory")
)

// header is the start of a segment that holds records from number first on.
func header(mark uint32, first uint64) []byte {
	h := []byte(signature)
	h = binary.LittleEndian.AppendUint32(h, version)
	h = binary.LittleEndian.AppendUint32(h, mark)
	h = binary.LittleEndian.AppendUint64(h, first)
	return binary.LittleEndian.AppendUint32(h, crc32.Checksum(h, castagnoli))
}

// parseHeader is the inverse of header; its errors are errHeader and errNewer. Signature, version and checksum stay
// where they are in every version.
func parseHeader(h []byte) (mark uint32, first uint64, err error) {
	body := h[:headerSize-4]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(h[headerSize-4:]) || string(h[:8]) != signature {
		return 0, 0, errHeader
	}
	if binary.LittleEndian.Uint32(h[8:]) != version {
		return 0, 0, errNewer
	}
	return binary.LittleEndian.Uint32(h[12:]), binary.LittleEndian.Uint64(h[16:]), nil
}

// frame is one record as it stands in a segment.
type frame struct {
	seq    uint64
	time   int64 // of the Write, unix nanoseconds
	at     int64 // where the frame begins in its file
	record []byte
}

// Batch gathers records for one Write. The zero value is ready; Reset makes it ready again and keeps its memory. It is
// not safe for concurrent use.
type Batch struct {
	frames []byte
	n      int
}

// Add appends a copy of record. It fails, and adds nothing, when the record is longer than MaxRecord.
func (b *Batch) Add(record []byte) error {
	if len(record) > MaxRecord {
		return fmt.Errorf("cannot journal a record of %d bytes: %d is the limit", len(record), MaxRecord)
	}
	var head [frameSize]byte
	binary.LittleEndian.PutUint32(head[8:], uint32(len(record)))
	b.frames = append(b.frames, head[:]...)
	b.frames = append(b.frames, record...)
	b.n++
	return nil
}

// Len is the number of records added since the last Reset.
func (b *Batch) Len() int { return b.n }

// Reset empties the batch.
func (b *Batch) Reset() { b.frames, b.n = b.frames[:0], 0 }

// stamp numbers the frames from first on and gives them a time.
func (b *Batch) stamp(first uint64, now int64) {
	for f := b.frames; len(f) > 0; f = f[length(f):] {
		binary.LittleEndian.PutUint64(f[12:], first)
		binary.LittleEndian.PutUint64(f[20:], uint64(now))
		first++
	}
}

// sign marks frames as those of one segment, and checksums them.
func sign(frames []byte, mark uint32) {
	for f := frames; len(f) > 0; f = f[length(f):] {
		binary.LittleEndian.PutUint32(f[4:], mark)
		binary.LittleEndian.PutUint32(f, crc32.Checksum(f[4:length(f)], castagnoli))
	}
}

// length is the size of the frame that frames begins with, its record included.
func length(frames []byte) int {
	return frameSize + int(binary.LittleEndian.Uint32(frames[8:]))
}
