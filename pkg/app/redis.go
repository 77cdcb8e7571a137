package app

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/llmproxy/llmproxy/pkg/admin"
	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/cluster"
	"github.com/llmproxy/llmproxy/pkg/config"
	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/quota"
	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/stats"
)

// redisParts is into how many parts a Redis Cluster can fail, at most.
const redisParts = 64

// openRedis begins to keep a connection. A Redis that is away is no error.
func openRedis(r *config.Redis, log *slog.Logger) (*redis.Client, error) {
	o := redis.Options{
		Addrs: r.Addrs(), Mode: redis.Mode(r.Mode), Master: r.Master,
		Username: r.Username, Password: string(r.Password),
		SentinelUsername: r.SentinelUsername, SentinelPassword: string(r.SentinelPassword),
		DB: r.DB, Name: "llmproxy", Log: log,
	}
	if r.TLS.Enabled {
		var err error
		if o.TLS, err = redisTLS(r.TLS); err != nil {
			return nil, err
		}
	}
	return redis.Open(o)
}

func redisTLS(t config.RedisTLS) (*tls.Config, error) {
	c := &tls.Config{ServerName: t.ServerName, MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("cannot read redis.tls.ca_file: %w", err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("cannot use redis.tls.ca_file %s: it holds no certificate in PEM", t.CAFile)
		}
	}
	if t.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cannot use redis.tls.cert_file %s with key_file %s: %w", t.CertFile, t.KeyFile, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// redisPlace names a Redis to the operator.
func redisPlace(r *config.Redis) string {
	return fmt.Sprintf("redis://%s/%d", strings.Join(r.Addrs(), ","), r.DB)
}

// OpenKeys opens the keys that a configuration keeps at run time, for a command that
// changes some. closes ends it.
func OpenKeys(c *config.Config) (s keystore.Store, closes func(), err error) {
	at := c.KeyRedis()
	if at == nil && c.Auth.Storage == "redis" {
		return nil, nil, errors.New("auth.storage is redis, but nobody is asked for a key: set auth.enabled")
	}
	if at == nil {
		file, err := keystore.OpenFile(c.DataDir, time.Now)
		return file, func() {}, err
	}
	client, err := openRedis(at, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	r, err := keystore.OpenRedis(keystore.RedisOptions{Client: client, Prefix: at.Prefix, Place: redisPlace(at), Now: time.Now})
	if err == nil {
		err = r.Load(commandPatience)
	}
	if err != nil {
		client.Close()
		return nil, nil, err
	}
	return r, client.Close, nil
}

// commandPatience is how long a command waits for Redis.
const commandPatience = 10 * time.Second

// sharing is what this gateway has in common with others.
type sharing struct {
	log     *slog.Logger
	clients map[config.Redis]*redis.Client
	cluster *cluster.Cluster // nil: it counts alone
	at      *config.Redis    // of the cluster
	node    string           // of this gateway
	stop    context.CancelFunc
}

// How long a start waits for a Redis that does not answer, and for one that does and
// has not said all yet. Then the gateway serves by what it has itself.
const (
	awayPatience  = 500 * time.Millisecond
	startPatience = 4 * time.Second
)

// await waits for Redis to be ready, and tells whether it is.
func await(client *redis.Client, ready <-chan struct{}) bool {
	select {
	case <-ready:
		return true
	case <-time.After(awayPatience):
	}
	if _, err := client.Do(awayPatience, "PING"); err != nil {
		return false
	}
	select {
	case <-ready:
		return true
	case <-time.After(startPatience):
		return false
	}
}

// client is the one connection to a Redis.
func (s *sharing) client(r *config.Redis) (*redis.Client, error) {
	if c := s.clients[*r]; c != nil {
		return c, nil
	}
	c, err := openRedis(r, s.log)
	if err == nil {
		s.clients[*r] = c
	}
	return c, err
}

// openSharing connects to the Redis of a configuration, and begins to count with
// other gateways; nil where there is none.
func (a *App) openSharing(c *config.Config) error {
	keys, limits := c.KeyRedis(), c.LimitRedis()
	if keys == nil && limits == nil {
		return nil
	}
	s := &sharing{log: a.log, clients: map[config.Redis]*redis.Client{}, stop: func() {}}
	a.sharing = s
	if s.at = limits; s.at == nil {
		s.at = keys
	}
	client, err := s.client(s.at)
	if err == nil && keys != nil {
		_, err = s.client(keys)
	}
	if err != nil {
		return err
	}
	parts := 1
	if s.at.Mode == string(redis.Cluster) {
		parts = redisParts
	}
	place, several := recallGateways(c.DataDir)
	self := a.self()
	s.node = self.Node
	waits := a.stats.Waits("llmproxy_redis_wait_seconds")
	s.cluster = cluster.New(cluster.Options{
		Redis: client, Prefix: s.at.Prefix, Timeout: time.Duration(s.at.Timeout), Self: self, Digest: a.digest.Load,
		Place: place, Several: several, Rates: limits != nil, Parts: parts, Observe: func(d time.Duration) { waits.Update(d.Seconds()) }, Log: a.log,
		Debts:    a.gateway.Debts,
		Accounts: func(f func(id [8]byte, t *quota.Term) bool) { a.gateway.Book().Each(f) },
	})
	a.gateway.Share(s.cluster)
	a.setPolicies(c)
	s.cluster.Start()
	if a.records != nil {
		a.records.cluster.Store(s.cluster)
	}
	s.register(a.stats)
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	go s.check(ctx, maps.Clone(s.clients))
	go s.remember(ctx, c.DataDir)
	if !await(client, s.cluster.Ready()) {
		a.log.Warn("Redis does not answer; the gateway starts without it, and limits hold by its share",
			"redis", redisPlace(s.at), "error", s.cluster.Status().Err)
	}
	return nil
}

// setPolicies puts in force what limits do while Redis cannot be asked.
func (a *App) setPolicies(c *config.Config) {
	limits, _ := admit.ParsePolicy(c.RateLimit.OnStoreError) // the configuration has no other names
	quotas, _ := admit.ParsePolicy(c.Auth.OnStoreError)
	a.gateway.OnError(limits, quotas)
}

// self is how this gateway is known to the others.
func (a *App) self() cluster.Gateway {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	g := cluster.Gateway{Host: host, Version: a.options.Version, Started: time.Now().UTC()}
	if a.records != nil {
		g.Node = a.records.log.Node()
		return g
	}
	var b [8]byte // nothing of it outlives the process
	_, _ = rand.Read(b[:])
	g.Node = hex.EncodeToString(b[:])
	return g
}

// digest is that of a configuration, without what gateways that serve together
// differ in, and with what is in force of what only a restart changes.
type digest struct {
	text  atomic.Pointer[string]
	first *config.Config
}

func (d *digest) Store(c *config.Config) {
	if d.first == nil {
		d.first = c
	}
	same := *c
	same.Redis, same.Auth.Redis, same.RateLimit.Redis = d.first.Redis, d.first.Auth.Redis, d.first.RateLimit.Redis
	same.Auth.Storage, same.RateLimit.Storage = d.first.Auth.Storage, d.first.RateLimit.Storage
	same.Auth.Timezone = zone(c.Auth.Location())
	same.Listen, same.DataDir, same.Region = "", "", ""
	same.Metrics.Listen, same.Admin.Listen = "", ""
	text := same.Digest()
	d.text.Store(&text)
}

func (d *digest) Load() string { return *d.text.Load() }

// zone tells one from others in which days begin at other times: that of a machine has
// no name.
func zone(l *time.Location) string {
	year := time.Now().Year()
	_, winter := time.Date(year, 1, 1, 0, 0, 0, 0, l).Zone()
	_, summer := time.Date(year, 7, 1, 0, 0, 0, 0, l).Zone()
	return fmt.Sprint(winter, summer)
}

// check tells the operator, once, what is amiss with each Redis.
func (s *sharing) check(ctx context.Context, clients map[config.Redis]*redis.Client) {
	const every = 5 * time.Second
	for at, client := range clients {
		for {
			warnings, err := client.Check(every)
			for _, w := range warnings {
				s.log.Warn("this Redis may forget what it is told", "redis", redisPlace(&at), "why", w)
			}
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(every):
			}
		}
	}
}

// gatewaysFile is in the data directory. It has the place of this gateway and how many
// there were, for a start without Redis: what one of them may let in alone depends on it.
const gatewaysFile = "gateways"

func recallGateways(dir string) (place, several int) {
	text, err := os.ReadFile(filepath.Join(dir, gatewaysFile))
	if err != nil {
		return 0, 1
	}
	if _, err := fmt.Sscan(string(text), &place, &several); err != nil || place < 0 || place >= several || several > mostGateways {
		return 0, 1
	}
	return place, several
}

const mostGateways = 10_000

// remember keeps the file up to date.
func (s *sharing) remember(ctx context.Context, dir string) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	knownPlace, known := recallGateways(dir)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if place, n := s.cluster.Place(); n != known || place != knownPlace {
			knownPlace, known = place, n
			err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, gatewaysFile), fmt.Appendln(nil, place, n), 0o600))
			if err != nil {
				s.log.Warn("cannot write how many gateways there are; a start without Redis would not know", "directory", dir, "error", err)
			}
		}
	}
}

// close tells Redis what it does not know yet and ends.
func (s *sharing) close() {
	s.stop()
	if s.cluster != nil {
		s.cluster.Close()
	}
	for _, c := range s.clients {
		c.Close()
	}
}

// register shows Redis and the other gateways in the metrics.
func (s *sharing) register(set *stats.Set) {
	status := s.cluster.Status
	for name, f := range map[string]func() float64{
		"llmproxy_redis_up":                   func() float64 { return bit(status().State == "up") },
		"llmproxy_redis_latency_seconds":      func() float64 { return status().Latency.Seconds() },
		"llmproxy_cluster_gateways":           func() float64 { return float64(len(status().Gateways)) },
		"llmproxy_cluster_configs":            func() float64 { return float64(configs(status().Gateways)) },
		"llmproxy_cluster_clock_skew_seconds": func() float64 { return status().Skew.Seconds() },
		"llmproxy_cluster_leases":             func() float64 { return float64(status().Leases) },
	} {
		set.Gauge(name, f)
	}
	set.CounterFunc(`llmproxy_redis_commands_total{result="ok"}`, func() int64 { return status().Asked })
	set.CounterFunc(`llmproxy_redis_commands_total{result="error"}`, func() int64 { return status().Failed })
	set.CounterFunc("llmproxy_decided_alone_total", func() int64 { return status().DecidedAlone })
}

// configs is how many configurations are in force among gateways.
func configs(all []cluster.Gateway) int {
	digests := map[string]bool{}
	for _, g := range all {
		digests[g.Config] = true
	}
	return len(digests)
}

// view is what the operator is shown.
func (s *sharing) view() admin.Cluster {
	st := s.cluster.Status()
	v := admin.Cluster{
		Node: s.node, Place: st.Place, Configs: configs(st.Gateways), Gateways: st.Gateways,
		Redis: &admin.Redis{
			Place: redisPlace(s.at), State: st.State, LatencySeconds: st.Latency.Seconds(), Commands: st.Asked, Errors: st.Failed,
			DecidedAlone: st.DecidedAlone, Leases: st.Leases,
		},
	}
	if v.Gateways == nil {
		v.Gateways = []cluster.Gateway{}
	}
	return v
}
