package forward

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/stats"
)

// UpstreamConfig says how a backend is reached. Two equal ones may share an
// Upstream, so it holds nothing but comparable values.
type UpstreamConfig struct {
	Name string // for metrics
	// URL is http or https, a host, and the path prefix its API stands under.
	URL string
	// Engine is its dialect, "" when that is not told; Continuous says that it is
	// to tell the usage in every chunk, where it can.
	Engine     string
	Continuous bool
	// APIKey is sent as a bearer token; none when empty.
	APIKey string
	// CA is a PEM bundle that replaces the system's for https.
	CA string
	// KeepAlive is how long an idle connection is kept. It must be below
	// the engine's own (5 s for uvicorn), or requests race with its close.
	KeepAlive time.Duration
	// Connect bounds the look-up of the name, the connection and the TLS
	// handshake together.
	Connect time.Duration
}

// Upstream is the transport to one backend: its pooled connections and the
// requests that are on them. It outlives a reload that leaves its
// configuration alone.
type Upstream struct {
	UpstreamConfig
	stats   *stats.Backend
	hangups *Hangups

	pool   fasthttp.HostClient
	dialer func(ctx context.Context, network, addr string) (net.Conn, error)
	tls    *tls.Config
	addr   string
	host   string // the Host header
	prefix string // the path before the endpoint's
	closed atomic.Bool

	mu        sync.Mutex // guards what follows
	dialed    []net.Conn // connections on their way into the pool
	calls     *Call      // calls that have a connection of this upstream
	abandoned time.Time  // the last Abandon
}

var errNoIdle = errors.New("no idle connection")

// maxConnAge is when a connection is not used again, so that a name that moves
// is followed.
const maxConnAge = 10 * time.Minute

// NewUpstream prepares the transport; nothing is connected or resolved before
// the first request. dial is net.Dialer.DialContext, or a test's own; nil
// means the former. hangups may be nil.
func NewUpstream(c UpstreamConfig, s *stats.Backend, hangups *Hangups, dial func(ctx context.Context, network, addr string) (net.Conn, error)) (*Upstream, error) {
	target, err := url.Parse(c.URL)
	if err != nil {
		return nil, err
	}
	u := &Upstream{UpstreamConfig: c, stats: s, hangups: hangups, dialer: dial}
	if dial == nil {
		u.dialer = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second}}).DialContext
	}
	u.host = target.Host
	u.prefix = strings.TrimSuffix(target.EscapedPath(), "/")
	port := target.Port()
	if target.Scheme == "https" {
		if u.tls, err = clientTLS(target.Hostname(), c.CA); err != nil {
			return nil, err
		}
	}
	if port == "" {
		port = map[bool]string{false: "80", true: "443"}[u.tls != nil]
	}
	u.addr = net.JoinHostPort(target.Hostname(), port)
	u.pool = fasthttp.HostClient{
		Addr:                u.addr,
		Dial:                u.handOver,
		MaxConns:            1 << 30, // max_in_flight is the limit; the pool is none
		MaxIdleConnDuration: c.KeepAlive,
		ConnPoolStrategy:    fasthttp.LIFO,
	}
	return u, nil
}

// pooled is fasthttp's connection type as we keep it: the type has no
// exported name.
type pooled interface {
	Conn() net.Conn
	LastUseTime() time.Time
	CreatedTime() time.Time
}

// acquire returns a connection and whether it served a request before; fresh
// wants one that did not. The pool is HostClient's, the dialling ours, because
// HostClient's cannot be cancelled: its Dial only hands over what dial made.
func (u *Upstream) acquire(call *Call, fresh bool) (p pooled, c *conn, reused bool, err error) {
	for dialed := false; ; {
		pc, err := u.pool.AcquireConn(0, false)
		if errors.Is(err, errNoIdle) {
			if err = u.dial(call); err == nil {
				dialed = true
				continue
			}
		}
		if err != nil {
			return nil, nil, false, err
		}
		c := pc.Conn().(*conn)
		last := pc.LastUseTime()
		if last.IsZero() {
			return pc, c, false, nil
		}
		now := time.Now()
		idle := now.Sub(last)
		if fresh || idle > u.KeepAlive || now.Sub(pc.CreatedTime()) > maxConnAge || c.ended.Load() || c.stale() {
			u.pool.CloseConn(pc)
			continue
		}
		if dialed { // one came back meanwhile, and nobody else may want the new one
			if surplus, err := u.handOver(""); err == nil {
				surplus.Close()
			}
		}
		return pc, c, true, nil
	}
}

// release gives a connection back: to the pool when another request may use
// it, else by closing it.
func (u *Upstream) release(p pooled, reusable bool) {
	if reusable && !u.closed.Load() {
		giveBack((*fasthttp.HostClient).ReleaseConn, &u.pool, p)
		if u.closed.Load() {
			u.pool.CloseIdleConnections()
		}
		return
	}
	// The socket first: TLS would wait to say goodbye, for seconds when the
	// engine has stopped reading.
	_ = p.Conn().(*conn).raw.Close()
	giveBack((*fasthttp.HostClient).CloseConn, &u.pool, p)
}

// giveBack calls f with p as the type that fasthttp knows it by.
func giveBack[C any](f func(*fasthttp.HostClient, C), h *fasthttp.HostClient, p pooled) {
	f(h, any(p).(C))
}

// dial makes one connection and leaves it for the pool to take. The call's
// Interrupt ends it.
func (u *Upstream) dial(call *Call) error {
	limit := time.Now().Add(u.Connect)
	if u.Connect <= 0 {
		limit = time.Time{}
	}
	ctx, cancel := withLimit(earlier(limit, call.deadline))
	defer cancel()
	if !call.attachDial(cancel) {
		return context.Canceled
	}
	defer call.attachDial(nil)
	raw, err := u.dialer(ctx, "tcp", u.addr)
	if err != nil {
		return err
	}
	var t *tls.Conn
	if u.tls != nil {
		t = tls.Client(raw, u.tls)
		if err := t.HandshakeContext(ctx); err != nil {
			raw.Close()
			return err
		}
	}
	k := newConn(raw, t)
	if u.hangups != nil {
		u.hangups.add(k)
	}
	u.mu.Lock()
	u.dialed = append(u.dialed, k)
	u.mu.Unlock()
	return nil
}

// withLimit is a context that ends at a moment; the zero time is never.
func withLimit(at time.Time) (context.Context, context.CancelFunc) {
	if at.IsZero() {
		return context.WithCancel(context.Background())
	}
	return context.WithDeadline(context.Background(), at)
}

// earlier is the earlier of two limits, of which the zero time is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

func (u *Upstream) handOver(string) (net.Conn, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := len(u.dialed)
	if n == 0 {
		return nil, errNoIdle
	}
	c := u.dialed[n-1]
	u.dialed[n-1] = nil
	u.dialed = u.dialed[:n-1]
	return c, nil
}

// Abandon interrupts every request that is on this upstream, or on its way to
// it: its engine is known to be dead though its connections say nothing.
func (u *Upstream) Abandon() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.abandoned = time.Now()
	for c := u.calls; c != nil; c = c.next {
		c.Interrupt(BackendDead)
	}
}

// Busy tells whether a request is on this upstream.
func (u *Upstream) Busy() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.calls != nil
}

// Close ends the idle connections now and the others when their requests are
// through.
func (u *Upstream) Close() {
	u.closed.Store(true)
	u.pool.CloseIdleConnections()
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, c := range u.dialed {
		c.Close()
	}
	u.dialed = nil
}

func (u *Upstream) enlist(c *Call) {
	u.mu.Lock()
	c.prev, c.next = nil, u.calls
	if u.calls != nil {
		u.calls.prev = c
	}
	u.calls = c
	missed := c.picked.Before(u.abandoned)
	u.mu.Unlock()
	if missed {
		c.Interrupt(BackendDead)
	}
}

func (u *Upstream) delist(c *Call) {
	u.mu.Lock()
	if c.prev != nil {
		c.prev.next = c.next
	} else {
		u.calls = c.next
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
	u.mu.Unlock()
}

func clientTLS(serverName, ca string) (*tls.Config, error) {
	c := &tls.Config{ServerName: serverName, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if ca == "" {
		return c, nil
	}
	c.RootCAs = x509.NewCertPool()
	if !c.RootCAs.AppendCertsFromPEM([]byte(ca)) {
		return nil, errors.New("no certificate found in the CA bundle")
	}
	return c, nil
}
