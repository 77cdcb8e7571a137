// Package redis asks one Redis (a server, one behind Sentinels, or a Cluster) within a deadline that holds whatever the
// server does.
//
// The calls of all go down one connection to each server, pipelined. A connection is made with time of its own, whatever
// the deadline of the call that needs it, and a call leaves at its deadline whether there is one or not; if its command
// has not been sent by then, it never is. What has been sent counts as in flight until it is answered or its connection
// ends, which it does after a second of silence. Nothing is sent twice. What answers is not trusted to be Redis: a
// connection on which anything is said that Redis would not say ends there, and nothing else does.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/redis/rueidis"
)

// Mode says what the addresses of Options are.
type Mode string

// The modes. The zero Mode is Single.
const (
	Single   Mode = "single"
	Sentinel Mode = "sentinel"
	Cluster  Mode = "cluster"
)

// Options say where Redis is and who asks.
type Options struct {
	// Addrs are host:port of the server, of Sentinels, or of some nodes of the Cluster, by Mode.
	Addrs []string
	Mode  Mode
	// Master is the name that the Sentinels know the server by.
	Master string
	// Username may be empty: the default user.
	Username, Password string
	// SentinelUsername and SentinelPassword are for the Sentinels themselves; empty, they are asked without.
	SentinelUsername, SentinelPassword string
	// DB is the number of the database; a Cluster has 0 only.
	DB int
	// TLS nil is plain TCP. Without a ServerName, that of the address asked is checked.
	TLS *tls.Config
	// Name is what CLIENT LIST shows; neither spaces nor control characters.
	Name string
	// Log hears when Redis goes and when it comes; nil is nobody.
	Log *slog.Logger
	// Dial makes the connections below TLS; nil is a net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Client asks one Redis. All its methods may be called by many at once.
type Client struct {
	options  Options
	ctx      context.Context // ends with Close, and every connection with it
	cancel   context.CancelFunc
	client   atomic.Pointer[rueidis.Client] // nil until the first connection
	cause    atomic.Pointer[error]          // why there is none; wraps ErrAway
	inFlight atomic.Int64
	flights  sync.Pool
	suspect  chan struct{} // a call has found the connection broken
	watched  chan struct{} // closed when watch has returned
}

// Open begins to keep a connection, in the background until Close, and returns at once. An error is for options that
// can never work.
func Open(o Options) (*Client, error) {
	if o.Mode == "" {
		o.Mode = Single
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{options: o, suspect: make(chan struct{}, 1), watched: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.cause.Store(&errNotYet)
	c.flights.New = func() any { return c.newFlight() }
	go c.watch()
	return c, nil
}

// Close ends all connections and waits for what was under way: calls that wait for an answer return with ErrAway.
func (c *Client) Close() {
	c.cancel()
	<-c.watched
	if client := c.client.Load(); client != nil {
		(*client).Close()
	}
}

func (o *Options) check() error {
	switch {
	case len(o.Addrs) == 0:
		return errors.New("redis: no address")
	case o.Mode != Single && o.Mode != Sentinel && o.Mode != Cluster:
		return fmt.Errorf("redis: mode %q is none of %s, %s and %s", o.Mode, Single, Sentinel, Cluster)
	case o.Mode == Single && len(o.Addrs) > 1:
		return fmt.Errorf("redis: %d addresses: mode %s has one", len(o.Addrs), Single)
	case o.Mode == Sentinel && o.Master == "":
		return errors.New("redis: mode sentinel needs the name of the master")
	case o.Mode != Sentinel && (o.Master != "" || o.SentinelUsername != "" || o.SentinelPassword != ""):
		return errors.New("redis: a master, or a user of Sentinels, needs mode sentinel")
	case o.Mode == Cluster && o.DB != 0, o.DB < 0:
		return fmt.Errorf("redis: there is no database %d in mode %s", o.DB, o.Mode)
	case o.Username != "" && o.Password == "", o.SentinelUsername != "" && o.SentinelPassword == "":
		return errors.New("redis: a user without a password")
	case strings.ContainsFunc(o.Name, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("redis: a name is printable ASCII without spaces, not %q", o.Name)
	}
	for _, a := range o.Addrs {
		host, port, err := net.SplitHostPort(a)
		if n, bad := strconv.ParseUint(port, 10, 16); err != nil || bad != nil || n == 0 || host == "" {
			return fmt.Errorf("redis: address %q is not host:port", a)
		}
	}
	return nil
}
