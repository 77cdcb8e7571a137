// Package events delivers what requests used to a billing system, each once:
// a request leaves a Record, a ring takes the records from the hot path, a
// journal keeps them through crashes, and a webhook gets them in batches. Who adds
// them up follows the same journal with a Tail.
package events

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math"
	"strconv"
	"time"

	"github.com/goccy/go-json/jsontext"
)

// Outcome is how a request ended.
type Outcome uint8

// The outcomes of a request that reached an engine.
const (
	Complete       Outcome = iota // the client has the whole answer, or could have had it
	ClientAborted                 // the client left before that
	UpstreamFailed                // the engine failed, before or in the middle of its answer
	Interrupted                   // the gateway ended before the request did
	nOutcomes
)

var outcomeNames = [nOutcomes]string{"complete", "client_aborted", "upstream_failed", "interrupted"}

func (o Outcome) String() string {
	if o >= nOutcomes {
		return "unknown"
	}
	return outcomeNames[o]
}

// Record is the one fact that a request leaves. It holds no prompt, no answer
// and no key.
type Record struct {
	ID [16]byte // of the request: X-Request-Id is it in hex
	// KeyID stands for the key; where none is asked for, for the bearer token
	// that the client sent. Name and UserID are the key's.
	KeyID, Name, UserID string
	// Asked is the model by the client's name, Served by the engine's.
	Asked, Served     string
	Backend, Endpoint string
	Streamed          bool
	Status            int // HTTP status, 499 for a client that left
	Outcome           Outcome
	Attempts          int // made at engines; all but the last failed and are not billed
	// Tokens. Prompt has the Cached ones in it, Completion the Reasoning ones.
	Prompt, Cached, Completion, Reasoning, Total int64
	// Seconds of audio, where that is what is billed.
	Seconds float64
	// Estimated: the tokens were counted from what was seen, because the
	// engine's own count did not come.
	Estimated      bool
	TTFT, Duration time.Duration // TTFT is 0 when there was no first token
	Started, Ended time.Time
	// Period is when the quota term began in which the tokens count, in Unix
	// nanoseconds; 0: in none.
	Period int64
}

// kind is what a journal's record is.
type kind byte

const (
	kindStart kind = 1 + iota // a request goes to an engine
	kindMark                  // so many tokens so far
	kindEnd                   // it is over
	kindVoid                  // it never reached an engine
)

// version of the encoding that follows the kind. The first had no Period; it is
// still read.
const version, firstVersion = 2, 1

// Every record of the journal begins with its kind, the version and the
// request's id. An end has the number of its event behind that, which the
// writer puts in.
const (
	offID    = 2
	offEvent = offID + 16
)

// append encodes the record as one of its kind: all of a start and an end, of a
// mark what was used so far.
func (r *Record) append(b []byte, k kind) []byte {
	b = append(b, byte(k), version)
	b = append(b, r.ID[:]...)
	switch k {
	case kindMark:
		for _, n := range [...]int64{r.Prompt, r.Cached, r.Completion, r.Reasoning, int64(math.Float64bits(r.Seconds)), int64(r.TTFT), int64(r.Duration)} {
			b = binary.AppendVarint(b, n)
		}
		return b
	case kindVoid:
		return b
	}
	if k == kindEnd {
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 0) // the number of its event
	}
	for _, s := range [...]string{r.KeyID, r.Name, r.UserID, r.Asked, r.Served, r.Backend, r.Endpoint} {
		s = s[:min(len(s), maxText)]
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	b = append(b, flag(r.Streamed)|flag(r.Estimated)<<1, byte(r.Outcome))
	for _, n := range [...]int64{
		int64(r.Status), int64(r.Attempts), r.Prompt, r.Cached, r.Completion, r.Reasoning, r.Total,
		int64(math.Float64bits(r.Seconds)), int64(r.TTFT), int64(r.Duration), r.Started.UnixNano(), r.Period,
	} {
		b = binary.AppendVarint(b, n)
	}
	return b
}

// maxText bounds each text of a record, in bytes; names of models come from
// clients.
const maxText = 512

func flag(on bool) byte {
	if on {
		return 1
	}
	return 0
}

// apply takes over from a mark how far the request had come.
func (r *Record) apply(mark Record) {
	r.Prompt, r.Cached, r.Completion, r.Reasoning, r.Seconds = mark.Prompt, mark.Cached, mark.Completion, mark.Reasoning, mark.Seconds
	r.TTFT, r.Duration, r.Ended = mark.TTFT, mark.Duration, r.Started.Add(mark.Duration)
}

var errMalformed = errors.New("malformed record")

// entry is a record of the journal, read back.
type entry struct {
	kind   kind
	event  uint64 // the number of the event, of an end
	record Record
}

func parseEntry(b []byte) (e entry, err error) {
	d := decoder{b: b}
	e.kind = kind(d.byte())
	d.version = d.byte()
	if (d.version < firstVersion || d.version > version) && d.err == nil {
		return e, errors.New("record of another version: " + strconv.Itoa(int(d.version)))
	}
	copy(e.record.ID[:], d.take(len(e.record.ID)))
	switch e.kind {
	case kindEnd:
		if n := d.take(8); n != nil {
			e.event = binary.LittleEndian.Uint64(n)
		}
		d.record(&e.record)
	case kindStart:
		d.record(&e.record)
	case kindMark:
		r := &e.record
		r.Prompt, r.Cached, r.Completion, r.Reasoning = d.int(), d.int(), d.int(), d.int()
		r.Seconds = math.Float64frombits(uint64(d.int()))
		r.TTFT, r.Duration = time.Duration(d.int()), time.Duration(d.int())
	case kindVoid:
	default:
		return e, errMalformed
	}
	if d.err == nil && len(d.b) > 0 {
		d.err = errMalformed
	}
	return e, d.err
}

type decoder struct {
	b       []byte
	version byte
	err     error
}

func (d *decoder) record(r *Record) {
	for _, s := range [...]*string{&r.KeyID, &r.Name, &r.UserID, &r.Asked, &r.Served, &r.Backend, &r.Endpoint} {
		n, k := binary.Uvarint(d.b)
		if k <= 0 || n > maxText {
			d.fail()
			return
		}
		d.b = d.b[k:]
		*s = string(d.take(int(n)))
	}
	flags := d.byte()
	r.Streamed, r.Estimated = flags&1 != 0, flags&2 != 0
	if r.Outcome = Outcome(d.byte()); r.Outcome >= nOutcomes {
		d.fail()
	}
	r.Status, r.Attempts = int(d.int()), int(d.int())
	r.Prompt, r.Cached, r.Completion, r.Reasoning, r.Total = d.int(), d.int(), d.int(), d.int(), d.int()
	r.Seconds = math.Float64frombits(uint64(d.int()))
	r.TTFT, r.Duration = time.Duration(d.int()), time.Duration(d.int())
	r.Started = time.Unix(0, d.int()).UTC()
	r.Ended = r.Started.Add(r.Duration)
	if d.version > firstVersion {
		r.Period = d.int()
	}
}

func (d *decoder) fail() {
	if d.err == nil {
		d.err = errMalformed
	}
	d.b = nil
}

func (d *decoder) take(n int) []byte {
	if len(d.b) < n {
		d.fail()
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) int() int64 {
	n, k := binary.Varint(d.b)
	if k <= 0 {
		d.fail()
		return 0
	}
	d.b = d.b[k:]
	return n
}

// appendEvent renders the record as a CloudEvent (CloudEvents 1.0.2, JSON
// format), number event of node.
func (r *Record) appendEvent(b []byte, node string, event uint64) []byte {
	id := hex.EncodeToString(r.ID[:])
	b = append(b, `{"specversion":"1.0","id":"`...)
	b = append(b, id...)
	b = appendText(append(b, `","source":`...), "urn:llmproxy:"+node)
	b = append(b, `,"type":"llmproxy.usage","datacontenttype":"application/json","time":"`...)
	b = r.Ended.UTC().AppendFormat(b, timeFormat)
	// The extension "sequence" is a text that sorts as the numbers do.
	b = append(b, `","sequence":"`...)
	n := strconv.FormatUint(event, 10)
	b = append(b, "00000000000000000000"[len(n):]...)
	b = append(b, n...)
	b = append(b, `","data":`...)
	b = r.appendData(b, id)
	return append(b, '}')
}

const timeFormat = "2006-01-02T15:04:05.000000Z"

func (r *Record) appendData(b []byte, id string) []byte {
	b = appendText(append(b, `{"request_id":`...), id)
	b = appendText(append(b, `,"key_id":`...), r.KeyID)
	b = appendText(append(b, `,"key_name":`...), r.Name)
	b = appendText(append(b, `,"user_id":`...), r.UserID)
	b = appendText(append(b, `,"model":`...), r.Asked)
	b = appendText(append(b, `,"served_model":`...), r.Served)
	b = appendText(append(b, `,"backend":`...), r.Backend)
	b = appendText(append(b, `,"endpoint":`...), r.Endpoint)
	b = strconv.AppendBool(append(b, `,"stream":`...), r.Streamed)
	b = strconv.AppendInt(append(b, `,"status":`...), int64(r.Status), 10)
	b = appendText(append(b, `,"outcome":`...), r.Outcome.String())
	b = strconv.AppendInt(append(b, `,"attempts":`...), int64(r.Attempts), 10)
	b = strconv.AppendInt(append(b, `,"prompt_tokens":`...), r.Prompt, 10)
	b = strconv.AppendInt(append(b, `,"cached_tokens":`...), r.Cached, 10)
	b = strconv.AppendInt(append(b, `,"completion_tokens":`...), r.Completion, 10)
	b = strconv.AppendInt(append(b, `,"reasoning_tokens":`...), r.Reasoning, 10)
	b = strconv.AppendInt(append(b, `,"total_tokens":`...), r.Total, 10)
	if r.Seconds > 0 && !math.IsInf(r.Seconds, 1) { // JSON has no infinity
		b = strconv.AppendFloat(append(b, `,"audio_seconds":`...), r.Seconds, 'g', -1, 64)
	}
	b = strconv.AppendBool(append(b, `,"estimated":`...), r.Estimated)
	b = appendMillis(append(b, `,"ttft_ms":`...), r.TTFT)
	b = appendMillis(append(b, `,"duration_ms":`...), r.Duration)
	b = r.Started.UTC().AppendFormat(append(b, `,"started":"`...), timeFormat)
	b = r.Ended.UTC().AppendFormat(append(b, `","ended":"`...), timeFormat)
	return append(b, `"}`...)
}

func appendMillis(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, float64(d.Microseconds())/1000, 'f', 3, 64)
}

// appendText quotes s; what is no UTF-8 in it becomes U+FFFD.
func appendText(b []byte, s string) []byte {
	b, _ = jsontext.AppendQuote(b, s)
	return b
}
