//go:build linux

// Command bare is the fake engine and the load generator of the side-by-side
// bench, both as fast as one core allows, so that the gateway between them is
// what a run measures.
//
//	bare engine -listen 127.0.0.1:9000
//	bare load -mode closed -target 127.0.0.1:9000 -duration 2s
//
// Each is one thread around one epoll descriptor. The system calls are raw: the
// Go scheduler is never told of them, so nothing is handed over and nothing
// woken. The price is that no other goroutine gets to run, the collector's
// among them: it is off, and the loops do not allocate.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

const usage = "usage: bare engine|load [flags]; -h after either lists them"

func main() {
	debug.SetGCPercent(-1)
	runtime.GOMAXPROCS(1) // a second one would only take over the loop now and then
	err := run(os.Args[1:])
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "bare:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	switch args[0] {
	case "engine":
		return runEngine(args[1:])
	case "load":
		return runLoad(args[1:])
	}
	return errors.New(usage)
}
