package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

const (
	dialTimeout  = time.Second            // for TCP and TLS
	silence      = 500 * time.Millisecond // until a connection is asked; as much again until it is closed, or for its greeting
	pingTimeout  = time.Second
	backoffFirst = 100 * time.Millisecond
	backoffMost  = time.Second
	refresh      = 2 * time.Second // of what Sentinels or a Cluster say
	redirects    = 3
	batchMost    = 64 // longer ones take a connection of their own and are in nobody's way
	ringScale    = 12 // 4096 places in a connection's queue: never full, with mostInFlight calls
	bufferSize   = 32 << 10
)

func (c *Client) rueidis() rueidis.ClientOption {
	o := &c.options
	return rueidis.ClientOption{
		InitAddress:       o.Addrs,
		Username:          o.Username,
		Password:          o.Password,
		ClientName:        o.Name,
		SelectDB:          o.DB,
		ForceSingleClient: o.Mode == Single,
		Sentinel: rueidis.SentinelOption{
			MasterSet:               o.Master,
			Username:                o.SentinelUsername,
			Password:                o.SentinelPassword,
			ClientName:              o.Name,
			TopologyRefreshInterval: refresh,
			Dialer:                  net.Dialer{Timeout: dialTimeout, KeepAlive: silence},
		},
		ClusterOption: rueidis.ClusterOption{ShardsRefreshInterval: refresh, MaxMovedRedirections: redirects},
		DialCtxFn: func(_ context.Context, addr string, _ *net.Dialer, _ *tls.Config) (net.Conn, error) {
			return c.dial(addr)
		},
		// What has been silent for KeepAlive is sent a PING, and closed after ConnWriteTimeout without a word. Longer ones
		// hold a failover up: rueidis first waits for what the old master has to say.
		Dialer:              net.Dialer{Timeout: dialTimeout, KeepAlive: silence},
		ConnWriteTimeout:    silence,
		RingScaleEachConn:   ringScale,
		ReadBufferEachConn:  bufferSize,
		WriteBufferEachConn: bufferSize,
		BlockingPipeline:    batchMost,
		BlockingPoolSize:    512,
		BlockingPoolCleanup: time.Minute,
		// One connection: one syscall carries more commands.
		PipelineMultiplex: -1,
		// A deadline must not close the connection that all others use.
		AlwaysPipelining: true,
		DisableRetry:     true,
		DisableCache:     true,
	}
}

// dial does not listen to whoever happened to need the connection: with a deadline of milliseconds none would ever be
// made over a slow network.
func (c *Client) dial(addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(c.ctx, dialTimeout)
	defer cancel()
	dial := c.options.Dial
	if dial == nil {
		dial = (&net.Dialer{KeepAlive: dialTimeout}).DialContext
	}
	plain, err := dial(ctx, "tcp", addr)
	if err != nil || c.options.TLS == nil {
		return c.own(plain, err)
	}
	conf := c.options.TLS
	if conf.ServerName == "" {
		host, _, _ := net.SplitHostPort(addr)
		conf = conf.Clone()
		conf.ServerName = host
	}
	secure := tls.Client(plain, conf)
	if err := secure.HandshakeContext(ctx); err != nil {
		plain.Close()
		return nil, err
	}
	return c.own(secure, nil)
}

// ownConn ends with its Client, so that closing one never waits for a server.
type ownConn struct {
	net.Conn
	forget func() bool
}

func (c *Client) own(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return &ownConn{Conn: &guard{Conn: conn}, forget: context.AfterFunc(c.ctx, func() { conn.Close() })}, nil
}

func (o *ownConn) Close() error {
	o.forget()
	return o.Conn.Close()
}

// watch connects, and then asks now and then whether Redis is there, until Close.
func (c *Client) watch() {
	defer close(c.watched)
	known, up := false, false
	for wait := backoffFirst; c.ctx.Err() == nil; {
		err := c.probe()
		if c.ctx.Err() != nil {
			return
		}
		if !known || up != (err == nil) {
			known, up = true, err == nil
			c.report(err)
		}
		if err == nil {
			wait = backoffFirst
			_ = c.sleep(backoffFirst, nil) && c.sleep(pingTimeout, c.suspect)
			continue
		}
		c.cause.Store(&err)
		c.sleep(wait/2+rand.N(wait/2), nil)
		wait = min(2*wait, backoffMost)
	}
}

func (c *Client) report(err error) {
	addrs := strings.Join(c.options.Addrs, ",")
	if err != nil {
		c.options.Log.Warn("redis is away", "addr", addrs, "error", err)
		return
	}
	c.options.Log.Info("redis answers", "addr", addrs)
}

// sleep is false when c was closed meanwhile.
func (c *Client) sleep(d time.Duration, wake <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-wake:
	case <-c.ctx.Done():
	}
	return c.ctx.Err() == nil
}

func (c *Client) probe() error {
	if c.client.Load() == nil {
		client, err := rueidis.NewClient(c.rueidis())
		if err != nil {
			if client != nil {
				client.Close()
			}
			return away(err)
		}
		c.client.Store(&client)
	}
	if c.options.Mode == Cluster {
		return c.probeCluster()
	}
	client := *c.client.Load()
	_, err := c.ask(client, client.B().Ping().Build(), pingTimeout)
	if errors.Is(err, ErrAway) && !isDenied(err) {
		return err
	}
	return nil
}

// probeCluster is content with one node that takes the cluster for whole.
func (c *Client) probeCluster() error {
	nodes := (*c.client.Load()).Nodes()
	answers := make(chan error, len(nodes))
	for _, node := range nodes {
		go func() {
			m, err := c.ask(node, node.B().ClusterInfo().Build(), pingTimeout)
			if text, _ := m.ToString(); err == nil && !strings.Contains(text, "cluster_state:ok") {
				err = away(errors.New("CLUSTERDOWN no node takes the cluster for whole"))
			}
			answers <- err
		}()
	}
	var last error
	for range nodes {
		if last = <-answers; last == nil {
			break
		}
	}
	return last
}
