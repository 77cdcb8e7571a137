package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// tapeBuffer is what is read at once; it holds the longest frame.
const tapeBuffer = 128 << 10

// tape reads the frames of one segment in order, and finds the next good one behind damage.
type tape struct {
	f    io.ReaderAt
	mark uint32
	seq  uint64 // of the frame before pos; the one before the segment's first at the start
	any  bool   // seq is unknown, because the header is: any first frame will do
	pos  int64  // where the next frame begins

	buf []byte // the file's bytes from off on
	off int64
}

// rewind starts the tape of seg, whose open file is f. The buffer stays.
func (t *tape) rewind(f io.ReaderAt, seg *segment) {
	*t = tape{f: f, mark: seg.mark, seq: seg.first - 1, any: !seg.whole, pos: headerSize, buf: t.buf[:0]}
}

// next is the next good frame that ends at limit or before, and the number of damaged bytes before it. At the end the
// error is io.EOF and the frame's place the limit; skipped bytes then are a tail without a good frame. Frames from number stop on, unless it is 0, are
// void: the segment after this one has them.
func (t *tape) next(limit int64, stop uint64) (fr frame, skipped int64, err error) {
	for at := t.pos; at < limit; {
		fr, ok, err := t.frame(at, limit)
		if err != nil {
			return frame{}, 0, err
		}
		skipped := at - t.pos
		if ok && t.follows(fr.seq, skipped) {
			if stop != 0 && fr.seq >= stop {
				break
			}
			t.seq, t.any = fr.seq, false
			t.pos = at + frameSize + int64(len(fr.record))
			return fr, skipped, nil
		}
		if at, err = t.find(at+1, limit); err != nil {
			return frame{}, 0, err
		}
		if at == limit {
			skipped, t.pos = limit-t.pos, limit
			return frame{at: limit}, skipped, io.EOF
		}
	}
	t.pos = max(t.pos, limit)
	return frame{at: limit}, 0, io.EOF
}

// follows says whether a frame numbered seq can stand behind the last one with so many damaged bytes between. Without
// this check a copy of an old frame would be taken for a new one.
func (t *tape) follows(seq uint64, skipped int64) bool {
	switch {
	case seq == 0:
		return false
	case t.any:
		return true
	case skipped == 0:
		return seq == t.seq+1
	}
	return seq > t.seq+1 && seq-t.seq-1 <= uint64(skipped)/frameSize
}

// frame reads the frame at at; not ok is one that is damaged or does not end at limit or before.
func (t *tape) frame(at, limit int64) (fr frame, ok bool, err error) {
	if limit-at < frameSize {
		return frame{}, false, nil
	}
	b, err := t.view(at, frameSize, limit)
	if err != nil {
		return frame{}, false, err
	}
	n := int64(length(b))
	if binary.LittleEndian.Uint32(b[4:]) != t.mark || n > frameSize+MaxRecord || n > limit-at {
		return frame{}, false, nil
	}
	if b, err = t.view(at, n, limit); err != nil {
		return frame{}, false, err
	}
	if crc32.Checksum(b[4:], castagnoli) != binary.LittleEndian.Uint32(b) {
		return frame{}, false, nil
	}
	return frame{
		seq: binary.LittleEndian.Uint64(b[12:]), time: int64(binary.LittleEndian.Uint64(b[20:])),
		at: at, record: b[frameSize:],
	}, true, nil
}

// find is the first place from at on where a frame may begin, or limit.
func (t *tape) find(at, limit int64) (int64, error) {
	mark := binary.LittleEndian.AppendUint32(nil, t.mark)
	for limit-at >= frameSize {
		b, err := t.view(at, min(tapeBuffer, limit-at), limit)
		if err != nil {
			return 0, err
		}
		if i := bytes.Index(b[4:], mark); i >= 0 {
			return at + int64(i), nil
		}
		at += int64(len(b)) - 7 // the last seven bytes may begin a frame whose mark is not all here
	}
	return limit, nil
}

// view is the n bytes at at, read together with as many behind them as fit the buffer. It is good until the next view.
func (t *tape) view(at, n, limit int64) ([]byte, error) {
	if at < t.off || at+n > t.off+int64(len(t.buf)) {
		if t.buf == nil {
			t.buf = make([]byte, 0, tapeBuffer)
		}
		t.off, t.buf = at, t.buf[:min(tapeBuffer, limit-at)]
		got, err := t.f.ReadAt(t.buf, at)
		if int64(got) < n {
			t.buf = t.buf[:0]
			if errors.Is(err, io.EOF) { // the file is shorter than it was said to be
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		t.buf = t.buf[:got]
	}
	return t.buf[at-t.off:][:n], nil
}
