package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// peer is a gateway under measurement.
type peer struct {
	name string // as in tables: "nginx"
	// install is idempotent; dir is bin/peers/NAME, kept between runs; nil:
	// there is nothing to install.
	install func(ctx context.Context, dir string) error
	version func(ctx context.Context, dir string) (string, error)
	// start renders the peer's configuration into dir and returns its command:
	// it must listen at listen and has engine (host:port) as its only upstream.
	// The bench sets the core, the limits and where its output goes.
	start  func(dir, listen, engine string) (*exec.Cmd, error)
	redis  *server  // that it needs; nil: none
	number int      // of its processes that share the load, each at an address of its own; 0: one
	path   string   // of requests; "" is /v1/chat/completions
	header []string // further request headers of the load, "Name: value"
	note   string   // what a reader of its figures must know
	slow   bool     // cannot keep up: no more than 1,000 streams
}

// envPrefix begins the variables that name further gateways:
// PEER_bifrost='bifrost -port $PORT -upstream $ENGINE'.
const envPrefix = "PEER_"

// fromEnvironment returns the gateways of an environment, sorted by name. Their
// commands are run by sh with LISTEN (host:port), PORT and ENGINE set.
func fromEnvironment(environ []string) ([]peer, error) {
	var found []peer
	for _, variable := range environ {
		assignment, ours := strings.CutPrefix(variable, envPrefix)
		if !ours {
			continue
		}
		name, command, _ := strings.Cut(assignment, "=")
		if name == "" || strings.TrimSpace(command) == "" {
			return nil, fmt.Errorf("cannot use %s%s: it is %sname=command", envPrefix, name, envPrefix)
		}
		found = append(found, peer{name: name, start: shell(command)})
	}
	slices.SortFunc(found, func(a, b peer) int { return strings.Compare(a.name, b.name) })
	return found, nil
}

func shell(command string) func(dir, listen, engine string) (*exec.Cmd, error) {
	return func(_, listen, engine string) (*exec.Cmd, error) {
		_, port, err := net.SplitHostPort(listen)
		if err != nil {
			return nil, err
		}
		cmd := exec.Command("sh", "-c", command)
		cmd.Env = append(os.Environ(), "LISTEN="+listen, "PORT="+port, "ENGINE="+engine)
		return cmd, nil
	}
}

// choose returns those of all peers that names asks for, in the order of all;
// with no names all of them. The first peer is what the others are compared
// with and always there.
func choose(all []peer, names []string) ([]peer, error) {
	for i, p := range all {
		if slices.ContainsFunc(all[:i], func(q peer) bool { return q.name == p.name }) {
			return nil, fmt.Errorf("there are two peers named %s", p.name)
		}
	}
	if len(names) == 0 {
		return all, nil
	}
	for _, name := range names {
		if !slices.ContainsFunc(all, func(p peer) bool { return p.name == name }) {
			return nil, fmt.Errorf("there is no peer named %q", name)
		}
	}
	chosen := all[:1:1]
	for _, p := range all[1:] {
		if slices.Contains(names, p.name) {
			chosen = append(chosen, p)
		}
	}
	return chosen, nil
}
