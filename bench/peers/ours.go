package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/llmproxy/llmproxy/bench/results"
	"github.com/llmproxy/llmproxy/bench/tenants"
)

// metered starts our gateway with metering on, and all else as in llmproxy.yaml.
func metered(dir, listen, engine string) (*exec.Cmd, error) {
	return withData(dir, listen, engine, "", "llmproxy-metered.yaml")
}

// far is a quota that is not used up.
const far = 1e15

// used is the key of the generator.
func used(quota int64) tenants.Used {
	return tenants.Used{Secret: "sk-bench", Models: []string{model}, Quota: quota}
}

// withKeys are our gateway with keys, each of which has its limits. They are
// measured beside ours without any.
func withKeys() []peer {
	limited := func(keys int, quota int64) func(dir, listen, engine string) (*exec.Cmd, error) {
		return func(dir, listen, engine string) (*exec.Cmd, error) {
			cmd, err := withData(dir, listen, engine, "", "llmproxy-limited.yaml")
			if err != nil {
				return nil, err
			}
			return cmd, tenants.Write(filepath.Join(dir, "data"), used(quota), keys-1)
		}
	}
	version := says(`llmproxy (\S+)`, llmproxy, "version")
	return []peer{
		{name: results.OursLimited, version: version, start: limited(10, 0), note: "10 keys, each limit but a quota"},
		{name: results.OursQuota, version: version, start: limited(10, far), note: "10 keys, each limit; for the quota each request has a record in the journal"},
		{name: results.OursManyKeys, version: version, start: limited(100_000, 0), note: "100,000 keys, each limit but a quota; one of them in use"},
	}
}

// withRedis are our gateway with the same keys and limits in a Redis. They are
// measured beside those that have them in memory.
func withRedis() []peer {
	return []peer{
		shared(peer{name: results.OursRedis, note: "10 keys, each limit but a quota, in a Redis"}, "llmproxy-redis.yaml", 0),
		shared(peer{name: results.OursRedisQuota, note: "10 keys, each limit, in a Redis"}, "llmproxy-redis.yaml", far),
		shared(peer{name: results.OursThree, number: 3, note: "three gateways, 10 keys, each limit, in one Redis; they share the core that others have alone"}, "llmproxy-redis.yaml", far),
	}
}

// shared adds to a peer what it takes to be our gateway, or some of them, with keys
// in a Redis.
func shared(p peer, addition string, quota int64) peer {
	p.redis = &server{used: used(quota), others: 9}
	p.install = installRedis
	p.version = func(ctx context.Context, dir string) (string, error) {
		ours, err := says(`llmproxy (\S+)`, llmproxy, "version")(ctx, dir)
		if err != nil {
			return "", err
		}
		its, err := says(`v=(\S+)`, redisServer, "--version")(ctx, dir)
		return ours + ", Redis " + its, err
	}
	p.start = func(dir, listen, engine string) (*exec.Cmd, error) {
		if p.number == 0 {
			return withData(dir, listen, engine, p.redis.addr, addition)
		}
		all := []string{"-c", `for config; do "$0" serve -config "$config" & done; wait`, llmproxy}
		for n := 1; n <= p.number; n++ {
			cmd, err := withData(filepath.Join(dir, strconv.Itoa(n)), nth(listen, n), engine, p.redis.addr, addition)
			if err != nil {
				return nil, err
			}
			all = append(all, cmd.Args[len(cmd.Args)-1])
		}
		return exec.Command("sh", all...), nil
	}
	return p
}

// withData starts our gateway with an addition to llmproxy.yaml and a new data
// directory: what an earlier run has left would be worked on in the time of this
// one.
func withData(dir, listen, engine, redis, addition string) (*exec.Cmd, error) {
	if err := errors.Join(os.RemoveAll(filepath.Join(dir, "data")), os.MkdirAll(dir, 0o755)); err != nil {
		return nil, err
	}
	at, err := newPlace(dir, listen, engine)
	if err != nil {
		return nil, err
	}
	at.Redis = redis
	var config []byte
	for _, name := range []string{"llmproxy.yaml", addition} {
		text, err := configs.ReadFile("configs/" + name)
		if err != nil {
			return nil, err
		}
		filled, err := fill(string(text), at)
		if err != nil {
			return nil, err
		}
		config = append(config, filled...)
	}
	path := filepath.Join(at.Dir, "llmproxy.yaml")
	return exec.Command(llmproxy, "serve", "-config", path), os.WriteFile(path, config, 0o644)
}

// flat returns a round's steps that show whether our cost per request stays
// what it is when there is more of everything.
func (b *bench) flat(round int) []step {
	present := b.present()
	i := slices.IndexFunc(present, func(g *gateway) bool { return g.name == results.Ours })
	if i < 0 {
		return nil
	}
	closed := b.measures()[0]
	if b.many == nil {
		b.many = &gateway{peer: peer{name: results.Ours, start: b.manyBackends}}
	}
	return []step{
		{b.many, results.ManyBackends, round, func(ctx context.Context, g *gateway) ([]results.Sample, error) {
			return b.take(ctx, g, closed)
		}},
		{present[i], results.BesideStreams, round, func(ctx context.Context, g *gateway) ([]results.Sample, error) {
			return b.beside(ctx, g, closed)
		}},
	}
}

// manyBackends starts our gateway with 1,000 backends in pools of 10: one for
// the model that is asked for, 99 for others. All are the one engine under
// different paths. They are checked once: checks of a thousand engines are not
// what is measured.
func (b *bench) manyBackends(dir, listen, engine string) (*exec.Cmd, error) {
	var config strings.Builder
	fmt.Fprintf(&config, "listen: %s\nserver: {idle_timeout: 1h}\nhealth_check: {interval: 1h}\nbackends:\n", listen)
	for i := range 1000 {
		name := model
		if i >= 10 {
			name = fmt.Sprintf("model-%d", i/10)
		}
		fmt.Fprintf(&config, "  - {url: \"http://%s/engine-%d\", name: engine-%d, models: [%s], keep_alive: 1h}\n", engine, i, i, name)
	}
	path := filepath.Join(dir, "many-backends.yaml")
	if err := os.WriteFile(path, []byte(config.String()), 0o644); err != nil {
		return nil, err
	}
	return exec.Command(llmproxy, "serve", "-config", path), nil
}

// beside takes a measure while streams are open that are silent after their
// first event.
func (b *bench) beside(ctx context.Context, g *gateway, m measure) ([]results.Sample, error) {
	if err := b.engine.behave(ctx, "stall=1"); err != nil {
		return nil, err
	}
	n := 5000
	if b.short {
		n = 200
	}
	h, err := b.hold(ctx, g, n)
	if err != nil {
		return nil, err
	}
	defer h.release()
	if h.open < n {
		return nil, fmt.Errorf("only %d of %d streams opened", h.open, n)
	}
	return b.loaded(ctx, g, m, n)
}
