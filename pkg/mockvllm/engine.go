// Package mockvllm is an inference engine without a model: it speaks the wire
// format of vLLM, SGLang, llama.cpp or TGI, schedules requests the way vLLM
// does, fails on demand, and keeps a ledger of what it was asked and when it
// was interrupted. Tests and load runs of the gateway use it as their oracle.
//
// Not modelled: a real tokenizer (a token is four bytes of prompt), preemption
// (a request reserves its whole length when it is admitted), speculative
// decoding, data parallelism.
package mockvllm

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Options of an Engine. The zero value is a vLLM that answers as fast as it can.
type Options struct {
	Name    string   // told in the ledger; faults can be aimed at it
	Models  []string // default {"mock-model"}; any other is a 404 in vLLM, and served elsewhere
	Dialect string   // one of Dialects; default DialectVLLM
	APIKey  string   // Bearer key wanted, in vLLM on /v1 paths only; "" = none

	KeepAlive     time.Duration // an idle connection is closed after this; default 5s, as uvicorn
	MaxNumSeqs    int           // sequences that run at once; default 256
	MaxQueued     int           // vLLM, SGLang: waiting sequences beyond which requests get 503; 0 = unbounded
	MaxConcurrent int           // TGI: requests beyond which more are refused; default 128
	MaxModelLen   int           // tokens of prompt and answer; default 131072
	KVBlocks      int           // 16-token blocks of KV cache; default 65536, at least MaxModelLen/16
	TokensDefault int           // answer length, end-of-sequence token included, when max_tokens is absent; default 16
	LedgerSize    int           // rows kept, the oldest are dropped; default 32768

	// The cost of one scheduler step is StepBase + PrefillPerToken for every
	// prompt token it computes + DecodePerSeq for every sequence it advances.
	StepBase, PrefillPerToken, DecodePerSeq time.Duration
	// PrefillDelay is the least time between admission and the first token; it
	// holds up no other sequence.
	PrefillDelay time.Duration

	ForceUsage         bool // --enable-force-include-usage: usage in every chunk, asked or not
	PromptTokenDetails bool // --enable-prompt-tokens-details, SGLang's --enable-cache-report: cached_tokens in usage
	RequestIDHeaders   bool // --enable-request-id-headers: X-Request-Id is echoed

	Comments time.Duration // a stream silent for this long gets an SSE comment, and again; 0 = none
	// Loading is how long the model loads after New: llama.cpp refuses
	// everything meanwhile, SGLang is not healthy; the others would not listen.
	Loading time.Duration

	OnDie func() // called by the fault "die" after Close; cmd/mockvllm exits here
}

func (o *Options) fill() {
	setDefault(&o.Dialect, DialectVLLM)
	setDefault(&o.KeepAlive, 5*time.Second)
	setDefault(&o.MaxNumSeqs, 256)
	setDefault(&o.MaxConcurrent, 128)
	setDefault(&o.MaxModelLen, 131072)
	setDefault(&o.KVBlocks, 65536)
	setDefault(&o.TokensDefault, 16)
	setDefault(&o.LedgerSize, 32768)
	if len(o.Models) == 0 {
		o.Models = []string{"mock-model"}
	}
	// vLLM refuses to start when one full-length request does not fit: here the
	// cache grows, or such a request would wait for ever.
	o.KVBlocks = max(o.KVBlocks, blocks(o.MaxModelLen)+1)
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Engine is one fake inference server. Its methods may be called concurrently.
type Engine struct {
	opt     Options
	dialect *dialect
	started time.Time
	sched   *scheduler
	ledger  *ledger
	faults  faultRules

	responses responseStore

	stats stats
	open  atomic.Int64 // generation requests in progress

	mu        sync.Mutex // guards the fields below
	conns     map[*conn]struct{}
	listeners []*gate
	closed    bool
	connSeq   uint64

	draining atomic.Bool
	done     chan struct{}  // closed by Close
	work     sync.WaitGroup // the scheduler and every connection
}

// New starts an engine; it serves once Serve is called. Close ends it. It
// panics when the dialect is none of Dialects.
func New(opt Options) *Engine {
	opt.fill()
	speaks := dialects[opt.Dialect]
	if speaks == nil {
		panic("BUG: unknown dialect " + opt.Dialect)
	}
	e := &Engine{
		opt:     opt,
		dialect: speaks,
		started: time.Now(),
		ledger:  newLedger(opt.LedgerSize),
		conns:   map[*conn]struct{}{},
		done:    make(chan struct{}),
	}
	e.sched = newScheduler(&e.opt, &e.stats)
	e.work.Go(func() { e.sched.run(e.done) })
	return e
}

// Serve accepts connections on ln until Close or Shutdown, then returns nil.
// It may be called for several listeners.
func (e *Engine) Serve(ln net.Listener) error {
	g := &gate{ln: ln, reopen: make(chan net.Listener, 1)}
	e.mu.Lock()
	if e.closed || e.draining.Load() {
		e.mu.Unlock()
		return ln.Close()
	}
	e.listeners = append(e.listeners, g)
	e.mu.Unlock()
	for {
		nc, err := ln.Accept()
		if err == nil && g.refusing() {
			_ = nc.Close()
			continue
		}
		if err == nil {
			e.start(nc)
			continue
		}
		if ln = g.next(e.done); ln == nil {
			if errors.Is(err, net.ErrClosed) || e.stopping() {
				return nil
			}
			return err
		}
	}
}

func (e *Engine) stopping() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed || e.draining.Load()
}

// start serves one accepted connection in a goroutine of its own.
func (e *Engine) start(nc net.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed || e.draining.Load() {
		_ = nc.Close()
		return
	}
	e.connSeq++
	c := newConn(e, nc, e.connSeq)
	e.conns[c] = struct{}{}
	e.work.Go(func() {
		c.serve()
		e.mu.Lock()
		delete(e.conns, c)
		e.mu.Unlock()
	})
}

// Close ends the engine as kill -9 would: listeners and connections are closed,
// nothing is finished. It waits for the engine's goroutines; a second call does
// nothing.
func (e *Engine) Close() error {
	e.kill()
	e.work.Wait()
	return nil
}

// kill is Close without the wait, for callers that run on one of the
// goroutines Close waits for.
func (e *Engine) kill() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	e.closed = true
	close(e.done)
	for _, g := range e.listeners {
		g.close()
	}
	for c := range e.conns {
		_ = c.nc.Close()
	}
}

// Shutdown ends the engine as uvicorn does on SIGTERM: no new connection, idle
// ones are closed, requests in progress are answered. When ctx ends first the
// rest is cut off and ctx's error returned.
func (e *Engine) Shutdown(ctx context.Context) error {
	e.draining.Store(true)
	e.mu.Lock()
	for _, g := range e.listeners {
		g.close()
	}
	e.mu.Unlock()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for e.closeIdle() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			_ = e.Close()
			return ctx.Err()
		}
	}
	return e.Close()
}

// closeIdle closes the connections without a request and tells how many are left.
func (e *Engine) closeIdle() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	left := 0
	for c := range e.conns {
		if c.busy.Load() {
			left++
			continue
		}
		_ = c.nc.Close()
	}
	return left
}

// Load tells how many sequences run and wait, and how many connections are open.
func (e *Engine) Load() (running, waiting, conns int) {
	running, waiting, _ = e.sched.load()
	e.mu.Lock()
	defer e.mu.Unlock()
	return running, waiting, len(e.conns)
}

// Ledger returns the rows kept, oldest first.
func (e *Engine) Ledger() []Entry { return e.ledger.all() }

// WaitEntry returns the first row, present or future, that match accepts; match
// sees every change of every row and must not call the engine. It fails with
// ctx's error.
func (e *Engine) WaitEntry(ctx context.Context, match func(Entry) bool) (Entry, error) {
	return e.ledger.wait(ctx, match)
}

// loading tells whether the model is not there yet.
func (e *Engine) loading() bool { return time.Since(e.started) < e.opt.Loading }

func (e *Engine) serves(model string) bool { return slices.Contains(e.opt.Models, model) }
