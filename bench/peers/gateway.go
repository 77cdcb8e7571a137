package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/llmproxy/llmproxy/bench/results"
)

// Time limits on the peers themselves.
const (
	installLimit = 15 * time.Minute
	startLimit   = 90 * time.Second // Python gateways import for half a minute
)

// gateway is a peer in a run.
type gateway struct {
	peer
	addr    string   // where it listens
	process *process // nil: it does not run; the direct row never has one
	command string   // as last started
	missing string   // why it is not measured
	release string   // its version
}

// direct reports whether this is the engine itself, without a gateway.
func (g *gateway) direct() bool { return g.start == nil }

func (g *gateway) url() string { return g.urlAt(g.addr) }

func (g *gateway) urlAt(addr string) string {
	path := g.path
	if path == "" {
		path = "/v1/chat/completions"
	}
	return "http://" + addr + path
}

// addrs are where its processes listen: the n-th at 127.0.0.n.
func (g *gateway) addrs() []string {
	all := []string{g.addr}
	for n := 2; n <= g.number; n++ {
		all = append(all, nth(g.addr, n))
	}
	return all
}

// nth is the address of a gateway's n-th process, by that of its first.
func nth(addr string, n int) string {
	return strings.Replace(addr, "127.0.0.1", fmt.Sprintf("127.0.0.%d", n), 1)
}

// cpu is the time on CPU of the gateway's processes; nothing if there are none.
func (g *gateway) cpu() (usage, error) {
	if g.direct() {
		return nil, nil
	}
	return cpu(g.process.pid())
}

func (g *gateway) row() results.Peer {
	return results.Peer{Name: g.name, Version: g.release, Command: g.command, Note: g.note, Missing: g.missing}
}

// prepare installs the peer and starts it once. A peer that cannot be installed
// or does not answer is missing from then on, with the reason. The error is for
// what ends the run.
func (b *bench) prepare(ctx context.Context, g *gateway) error {
	if g.direct() {
		g.addr = b.engine.addr
		return b.engine.smoke(ctx, g)
	}
	err := b.install(ctx, g)
	if err == nil {
		err = b.start(ctx, g)
	}
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if err != nil {
		g.process.stop()
		g.missing = shorten(err.Error())
	}
	return nil
}

func (b *bench) install(ctx context.Context, g *gateway) error {
	ctx, cancel := context.WithTimeout(ctx, installLimit)
	defer cancel()
	dir := b.home(g)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// A log is of one run.
	if err := os.Remove(filepath.Join(dir, "log")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if g.install != nil {
		if err := g.install(ctx, dir); err != nil {
			return fmt.Errorf("cannot install it: %w", err)
		}
	}
	if g.version == nil {
		return nil
	}
	version, err := g.version(ctx, dir)
	if err != nil {
		return fmt.Errorf("cannot tell its version: %w", err)
	}
	g.release = version
	return nil
}

func (b *bench) home(g *gateway) string { return filepath.Join(b.dir, g.name) }

// start starts the gateway and waits until it answers.
func (b *bench) start(ctx context.Context, g *gateway) error {
	addr, err := b.freeAddr()
	if err != nil {
		return err
	}
	dir := b.home(g)
	if err := b.startRedis(ctx, g); err != nil {
		return err
	}
	cmd, err := g.peer.start(dir, addr, b.engine.addr)
	if err != nil {
		return fmt.Errorf("cannot configure it: %w", err)
	}
	if s := g.redis; s != nil && s.secret == "" {
		if err := s.fill(ctx, cmd.Args[len(cmd.Args)-1]); err != nil { // its configuration
			return err
		}
		g.header = []string{"Authorization: Bearer " + s.secret}
	}
	g.addr, g.command = addr, strings.ReplaceAll(strings.Join(cmd.Args, " "), b.root+"/", "")
	if g.process, err = b.begin(cmd, b.gatewayCore, filepath.Join(dir, "log")); err != nil {
		return err
	}
	for end := time.Now().Add(b.patience); ; {
		if err = b.engine.smoke(ctx, g); err == nil {
			return nil
		}
		if !g.process.alive() {
			return g.process.death()
		}
		if time.Now().After(end) {
			return fmt.Errorf("it does not answer after %v: %w", b.patience, err)
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// live sees to it that the gateway runs.
func (b *bench) live(ctx context.Context, g *gateway) error {
	if g.direct() || g.process.alive() {
		return nil
	}
	return b.start(ctx, g)
}

// fresh starts the gateway anew and returns what it then uses at rest, in KiB.
func (b *bench) fresh(ctx context.Context, g *gateway) (idle int64, err error) {
	g.process.stop()
	if err := b.start(ctx, g); err != nil {
		return 0, err
	}
	if err := pause(ctx, b.pick(time.Second, 100*time.Millisecond)); err != nil {
		return 0, err
	}
	return memory(g.process.pid(), rss)
}
