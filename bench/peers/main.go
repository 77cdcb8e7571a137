// Command peers measures our gateway beside what else a user would pick, in one
// run and on the same work:
//
//	go run ./bench/peers [-peers nginx,llmproxy] [-usage | -limits | -cluster] [-short]
//
// The fake engine, the load generator and any Redis share one core, the gateway
// under measurement has another. All gateways run from the start to the end, and one
// at a time has work. It is run in the repository's root, installs what it
// needs into bin/peers and writes one file, see package results.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/llmproxy/llmproxy/bench/results"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "peers: %v\n", err)
		os.Exit(1)
	}
}

// options are the flags.
type options struct {
	rounds int
	peers  []string
	short  bool
	kind   kind
	out    string
	dir    string
}

// kind is what is compared. The name of the file begins with it.
type kind string

const (
	sideBySide kind = "peers"   // all gateways
	usages     kind = "usage"   // ours without metering and with it
	limits     kind = "limits"  // ours without keys and limits and with them
	clusters   kind = "cluster" // ours with both in its memory and in a Redis
)

func parse(args []string) (*options, error) {
	var o options
	flags := flag.NewFlagSet("peers", flag.ContinueOnError)
	flags.IntVar(&o.rounds, "rounds", 3, "how often the interleaved measures are repeated")
	names := flags.String("peers", "", "names of the peers, separated by commas; default: all")
	flags.BoolVar(&o.short, "short", false, "only prove that it works: one round, fractions of a second, peers that are quick to install")
	usage := flags.Bool("usage", false, "what metering costs: only our gateway without and with it, and only what it bears upon")
	limit := flags.Bool("limits", false, "what keys and limits cost: the same of them")
	cluster := flags.Bool("cluster", false, "what it costs to have keys and limits in a Redis: beside the same in memory")
	flags.StringVar(&o.out, "out", "", "the file to write; default: bench/results/peers-DATE-COMMIT.json (with -usage: usage-..., and so on), with -short DIR/short.json")
	flags.StringVar(&o.dir, "dir", "bin/peers", "where peers are installed and log")
	if err := flags.Parse(args); err != nil {
		return nil, err
	}
	o.kind = sideBySide
	chosen := 0
	for kind, is := range map[kind]bool{usages: *usage, limits: *limit, clusters: *cluster} {
		if is {
			o.kind, chosen = kind, chosen+1
		}
	}
	if flags.NArg() > 0 || o.rounds < 1 || chosen > 1 {
		return nil, errors.New("there are no arguments, -rounds is at least 1, and -usage, -limits and -cluster exclude each other")
	}
	o.peers = strings.FieldsFunc(*names, func(r rune) bool { return r == ',' || r == ' ' })
	if o.short {
		o.rounds = 1
	}
	if len(o.peers) == 0 {
		o.peers = twins[o.kind]
	}
	if len(o.peers) == 0 && o.short {
		o.peers = quick
	}
	return &o, nil
}

// twins are our gateway without what is measured and with it.
var twins = map[kind][]string{
	usages: {results.Direct, results.Ours, results.OursMetered},
	limits: {results.Direct, results.Ours, results.OursLimited, results.OursQuota, results.OursManyKeys},
	clusters: {
		results.Direct, results.OursLimited, results.OursQuota,
		results.OursRedis, results.OursRedisQuota, results.OursThree,
	},
}

// quick are the peers of a short run: they take seconds to install.
var quick = []string{results.Direct, results.Ours, results.OursAll, results.OursOff, results.Nginx, "haproxy", results.ReverseProxy}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	joined, err := fromEnvironment(os.Environ())
	if err != nil {
		return err
	}
	if len(o.peers) > 0 {
		for _, p := range joined {
			o.peers = append(o.peers, p.name) // whoever is set on the command line is meant
		}
	}
	direct := peer{name: results.Direct, note: "the engine itself, without a gateway"}
	known := append([]peer{direct}, catalogue()...)
	if o.kind == limits || o.kind == clusters {
		known = append(known, withKeys()...)
	}
	if o.kind == clusters {
		known = append(known, withRedis()...)
	}
	peers, err := choose(append(known, joined...), o.peers)
	if err != nil {
		return err
	}
	b, err := newBench(o, peers)
	if err != nil {
		return err
	}
	defer b.stop()
	result, err := b.all(ctx, o)
	if err != nil {
		return err
	}
	result.Command = "go run ./bench/peers " + strings.Join(args, " ")
	if err := result.Save(o.out); err != nil {
		return err
	}
	fmt.Printf("\n%s\nwritten to %s\n", table(result), o.out)
	return nil
}

// newBench prepares a run in the working directory.
func newBench(o *options, peers []peer) (*bench, error) {
	root, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	begin := time.Now()
	b := &bench{root: root, dir: dir, bare: filepath.Join(root, "bin", "bare"), short: o.short, kind: o.kind, lastPort: 21000, patience: startLimit}
	b.progress = func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "[%6s] %s\n", time.Since(begin).Round(time.Second), fmt.Sprintf(format, args...))
	}
	for _, p := range peers {
		b.gateways = append(b.gateways, &gateway{peer: p})
	}
	b.descriptors, err = raiseDescriptors()
	return b, err
}

// all runs everything and returns what came of it.
func (b *bench) all(ctx context.Context, o *options) (*results.Run, error) {
	began := time.Now()
	commit, err := commit(ctx)
	if err != nil {
		return nil, err
	}
	if o.out == "" {
		o.out = filepath.Join("bench", "results", string(o.kind)+"-"+began.Format(time.DateOnly)+"-"+commit+".json")
		if o.short {
			o.out = filepath.Join(o.dir, "short.json")
		}
	}
	r := &results.Run{Started: began.UTC(), Commit: commit, Machine: machine(b.descriptors), Rounds: o.rounds, Short: o.short}
	if b.engineCore, b.gatewayCore, err = cores(); err != nil {
		r.Notes = append(r.Notes, fmt.Sprintf("Nothing is pinned to a core: %v.", err))
		b.progress("nothing is pinned to a core: %v", err)
	}
	if err := b.build(ctx); err != nil {
		return nil, err
	}
	if err := b.startEngine(ctx); err != nil {
		return nil, err
	}
	for i, g := range b.gateways {
		b.progress("install and start %s, %d/%d", g.name, i+1, len(b.gateways))
		if err := b.prepare(ctx, g); err != nil {
			return nil, err
		}
		if g.missing != "" {
			b.progress("%s is missing: %s", g.name, g.missing)
		}
	}
	if err := b.measure(ctx, append(b.repeated(o.rounds), b.once()...)); err != nil {
		return nil, err
	}
	for _, g := range b.gateways {
		r.Peers = append(r.Peers, g.row())
	}
	r.Samples, r.Took = b.samples, time.Since(began)
	return r, nil
}
