package gateway

import (
	"bufio"
	"encoding/hex"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-json"
	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// AccessLog writes one JSON line a request. The lines are written by a
// goroutine of its own; when it cannot keep up they are dropped and counted.
type AccessLog struct {
	w     io.Writer
	lines chan []byte
	done  chan struct{}
	stats *stats.Set
	once  sync.Once

	unflushed int // lines since the last flush; the writer's own
	stop      chan struct{}
}

// accessBacklog is how many lines may wait for the writer.
const accessBacklog = 4096

// NewAccessLog starts a log to w.
func NewAccessLog(w io.Writer, set *stats.Set) *AccessLog {
	a := &AccessLog{w: w, lines: make(chan []byte, accessBacklog), done: make(chan struct{}), stop: make(chan struct{}), stats: set}
	go a.run(bufio.NewWriterSize(w, 64<<10))
	return a
}

func (a *AccessLog) run(w *bufio.Writer) {
	defer close(a.done)
	for {
		select {
		case l := <-a.lines:
			a.put(w, l)
		case <-a.stop:
			for len(a.lines) > 0 {
				a.put(w, <-a.lines)
			}
			return
		}
	}
}

// put writes a line, and all that wait with it when there are no more. A log
// that cannot be written has lost its lines; it may take later ones.
func (a *AccessLog) put(w *bufio.Writer, line []byte) {
	a.unflushed++
	_, err := w.Write(line)
	if err == nil && len(a.lines) > 0 {
		return
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		a.stats.LogDropped.Add(a.unflushed)
		w.Reset(a.w)
	}
	a.unflushed = 0
}

// closeGrace is how long Close waits for a reader that does not read.
const closeGrace = time.Second

// Close writes what waits and ends the log. Lines that come later are lost.
func (a *AccessLog) Close() {
	a.once.Do(func() { close(a.stop) })
	select {
	case <-a.done:
	case <-time.After(closeGrace):
	}
}

// record is what is kept of a request for its line, because the request is
// gone when it is written.
type record struct {
	client          netip.Addr
	clientRequestID string
	method, path    string
	model           string
}

// maxClientID bounds a client's own request id in the log.
const maxClientID = 128

func (a *AccessLog) record(ctx *fasthttp.RequestCtx, v *View) *record {
	id := ctx.Request.Header.PeekBytes(xRequestID)
	return &record{
		client:          clientIP(ctx, v.Trusted),
		clientRequestID: string(id[:min(len(id), maxClientID)]),
		method:          string(ctx.Method()),
		path:            loggedPath(string(ctx.Path())),
	}
}

func (a *AccessLog) write(x *Exchange, now time.Time) {
	c, r := x.call, x.record
	b := make([]byte, 0, 512)
	b = append(b, `{"time":"`...)
	b = now.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `","request_id":"`...)
	b = append(b, x.id[:]...)
	b = append(b, `","client":"`...)
	b = r.client.AppendTo(b)
	if x.caller.token {
		b = append(b, `","key_id":"`...)
		b = hex.AppendEncode(b, x.caller.id[:])
	}
	b = appendJSON(append(b, `","client_request_id":`...), r.clientRequestID)
	b = appendJSON(append(b, `,"method":`...), r.method)
	b = appendJSON(append(b, `,"path":`...), r.path)
	b = appendJSON(append(b, `,"model":`...), r.model)
	backend := ""
	if c.Backend != nil {
		backend = c.Backend.Name
	}
	b = appendJSON(append(b, `,"backend":`...), backend)
	b = strconv.AppendInt(append(b, `,"status":`...), int64(x.status), 10)
	b = strconv.AppendBool(append(b, `,"stream":`...), x.request.Stream || c.SSE())
	b = strconv.AppendInt(append(b, `,"attempts":`...), int64(c.Attempts), 10)
	b = append(b, `,"outcome":"`...)
	if c.Attempts > 0 {
		b = append(b, c.Outcome.String()...)
	}
	b = append(b, '"')
	if !c.FirstToken.IsZero() {
		b = appendMillis(append(b, `,"ttft_ms":`...), c.FirstToken.Sub(x.start))
	}
	b = appendMillis(append(b, `,"duration_ms":`...), now.Sub(x.start))
	b = strconv.AppendInt(append(b, `,"events":`...), int64(c.Events.Count), 10)
	b = strconv.AppendInt(append(b, `,"bytes":`...), x.call.Relayed, 10)
	b = append(b, "}\n"...)
	select {
	case <-a.stop:
		a.stats.LogDropped.Inc()
		return
	default:
	}
	select {
	case a.lines <- b:
	default:
		a.stats.LogDropped.Inc()
	}
}

func appendMillis(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, float64(d.Microseconds())/1000, 'f', 3, 64)
}

func appendJSON(b []byte, s string) []byte {
	q, err := json.Marshal(strings.ToValidUTF8(s, "?"))
	if err != nil {
		return append(b, `""`...)
	}
	return append(b, q...)
}

// loggedPath leaves out what stands in the place of a key's id and is none: perhaps
// it is the key.
func loggedPath(path string) string {
	const keys = adminPath + "api-keys/"
	rest, ok := strings.CutPrefix(path, keys)
	if !ok {
		return path
	}
	id, _, _ := strings.Cut(rest, "/")
	if _, err := auth.ParseID(id); err != nil {
		return keys + "…"
	}
	return path
}
