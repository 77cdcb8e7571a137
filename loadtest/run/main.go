// Command run puts one of the five deployments under load: fake engines as
// processes of their own, the scenario's own configuration, and a script of what
// goes wrong. The same load goes through nginx's plain round robin afterwards.
// It is run from the root of the repository and writes a table, a result file
// and a picture.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/llmproxy/llmproxy/loadtest/picture"
	"github.com/llmproxy/llmproxy/loadtest/result"
	"github.com/llmproxy/llmproxy/loadtest/scenario"
)

// shortTime is how long the requests of a short run come.
const shortTime = 7 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "loadtest:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("loadtest", flag.ContinueOnError)
	number := f.Int("scenario", 1, "which of the five deployments, `1` to 5")
	short := f.Bool("short", false, "some seconds only, to prove that it runs; its figures mean nothing")
	out := f.String("out", "", "`directory` of the result and the picture (loadtest/results; of a short run bin/loadtest)")
	if err := f.Parse(args); err != nil {
		return err
	}
	s, err := scenario.Read(".", *number)
	if err != nil {
		return err
	}
	dir := cmp.Or(*out, filepath.Join("loadtest", "results"))
	if *short {
		s.Shorten(shortTime)
		dir = cmp.Or(*out, filepath.Join("bin", "loadtest")) // real results are committed
	}
	plan, err := s.Plan()
	if err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "make", "--no-print-directory", "-s", "build")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("cannot build: %w", err)
	}
	r := describe(s, *short, args)
	var ports ports
	for _, name := range []string{"llmproxy", "nginx"} {
		side, err := play(ctx, s, plan, name, &ports)
		if err != nil {
			return err
		}
		r.Sides = append(r.Sides, side)
	}
	fillTable(r, s)
	if err := save(r, dir); err != nil {
		return err
	}
	fmt.Println(table(r))
	if *short && s.Sound {
		return sound(r)
	}
	return nil
}

// save writes the result file and the picture.
func save(r *result.Result, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot make the directory of the results: %w", err)
	}
	name := fmt.Sprintf("scenario-%d", r.Scenario)
	r.Picture = name + ".svg"
	if err := picture.Draw(r, filepath.Join(dir, r.Picture)); err != nil {
		return err
	}
	return r.Save(filepath.Join(dir, name+".json"))
}

// sound fails when LLMProxy has lost a request that it could have saved.
func sound(r *result.Result) error {
	side := r.Sides[0]
	lost := strings.Count(side.Outcome, string(result.Refused)) + strings.Count(side.Outcome, string(result.GaveUp))
	if lost > 0 {
		return fmt.Errorf("%d requests failed before their first token through LLMProxy: %v", lost, side.Failures)
	}
	return nil
}

// play runs the script through one gateway.
func play(ctx context.Context, s *scenario.Scenario, plan []scenario.Request, name string, ports *ports) (side *result.Side, err error) {
	side = &result.Side{Name: name}
	dir, err := os.MkdirTemp("", "loadtest-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what stays is in the system's directory for such things

	aliases := map[string][]string{}
	if name == "nginx" {
		if aliases, err = clientNames(s); err != nil {
			return nil, err
		}
	}
	st, err := newStage(ctx, s, ports, aliases)
	if st != nil {
		defer st.stop()
		defer func() {
			if err != nil && ctx.Err() == nil {
				st.explain(os.Stderr)
			}
		}()
	}
	if err != nil {
		return nil, err
	}
	start := st.llmproxy
	if name == "nginx" {
		start = st.nginx
	}
	g, err := start(ctx, dir, ports)
	if errors.Is(err, errNoNginx) {
		side.Missing = err.Error()
		return side, nil
	}
	if err != nil {
		return nil, err
	}
	side.Version = g.version
	return side, st.perform(ctx, g, plan, side)
}

// clientNames are the models as clients name them, by host: nginx cannot change
// a name, so engines behind it must know both.
func clientNames(s *scenario.Scenario) (map[string][]string, error) {
	out := map[string][]string{}
	for _, model := range models(s) {
		hosts, err := s.Pool(model)
		if err != nil {
			return nil, err
		}
		for _, host := range hosts {
			out[host] = append(out[host], model)
		}
	}
	return out, nil
}

// perform lets load, events and the watcher loose and waits for all of them.
func (st *stage) perform(ctx context.Context, g *gateway, plan []scenario.Request, side *result.Side) error {
	t := newTraffic(g, st.scenario, plan)
	w := newWatcher(st, g, side)
	begin := time.Now()
	failed := make(chan error, len(st.scenario.Events))
	var all sync.WaitGroup
	for _, ev := range st.scenario.Events {
		all.Go(func() {
			pause(ctx, time.Until(begin.Add(ev.At)))
			if ctx.Err() == nil {
				failed <- st.do(ctx, ev)
			}
		})
	}
	all.Go(func() { w.run(ctx, begin, int(st.scenario.Lasts/time.Second), t, os.Stderr) })
	t.run(ctx, begin)
	all.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return err
		}
	}
	t.fill(side)
	return ctx.Err()
}
