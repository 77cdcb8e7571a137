// Command mockvllm serves a fake inference engine: the wire format of vLLM,
// SGLang, llama.cpp or TGI, vLLM's scheduling, faults on demand, and a ledger of all requests on a second
// port. See package mockvllm.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

func main() {
	err := run(os.Args[1:])
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	default:
		fmt.Fprintln(os.Stderr, "mockvllm:", err)
		os.Exit(1)
	}
}

// settings are the flags that are not the engine's own options.
type settings struct {
	listen, admin, models string
	grace                 time.Duration
	engine                mockvllm.Options
}

func parse(args []string) (settings, error) {
	var s settings
	f := flag.NewFlagSet("mockvllm", flag.ContinueOnError)
	f.StringVar(&s.listen, "listen", "127.0.0.1:9001", "`address` of the engine")
	f.StringVar(&s.admin, "admin", "127.0.0.1:9101", "`address` of ledger and faults; empty = none")
	f.StringVar(&s.engine.Name, "name", "mock", "name in the ledger, at which faults can be aimed")
	f.StringVar(&s.models, "models", "mock-model", "comma-separated `names` of the models served")
	f.StringVar(&s.engine.Dialect, "dialect", mockvllm.DialectVLLM, "wire format: "+strings.Join(mockvllm.Dialects(), ", "))
	f.StringVar(&s.engine.APIKey, "api-key", "", "Bearer `key` wanted, by vllm on /v1 paths only")
	f.DurationVar(&s.engine.PrefillDelay, "ttft", 0, "least time from admission to the first token")
	f.DurationVar(&s.engine.StepBase, "itl", 0, "time of one scheduler step: the time between tokens")
	f.DurationVar(&s.engine.PrefillPerToken, "prefill-per-token", 0, "added to a step for each prompt token it computes")
	f.DurationVar(&s.engine.DecodePerSeq, "decode-per-seq", 0, "added to a step for each answer it continues")
	f.IntVar(&s.engine.MaxNumSeqs, "max-num-seqs", 256, "answers generated at once")
	f.IntVar(&s.engine.MaxQueued, "max-queued", 0, "vllm, sglang: waiting answers beyond which requests get 503; 0 = any number")
	f.IntVar(&s.engine.MaxConcurrent, "max-concurrent", 128, "tgi: requests beyond which more are refused")
	f.IntVar(&s.engine.MaxModelLen, "max-model-len", 131072, "tokens of prompt and answer")
	f.IntVar(&s.engine.KVBlocks, "kv-blocks", 65536, "KV cache, in blocks of 16 tokens")
	f.IntVar(&s.engine.TokensDefault, "tokens", 16, "answer length when the request gives no limit")
	f.IntVar(&s.engine.LedgerSize, "ledger", 32768, "requests remembered")
	f.DurationVar(&s.engine.KeepAlive, "keep-alive", 5*time.Second, "idle connections are closed after this, as uvicorn does")
	f.BoolVar(&s.engine.ForceUsage, "force-usage", false, "usage in every chunk (--enable-force-include-usage)")
	f.BoolVar(&s.engine.PromptTokenDetails, "prompt-token-details", false, "cached_tokens in usage (--enable-prompt-tokens-details, sglang --enable-cache-report)")
	f.BoolVar(&s.engine.RequestIDHeaders, "request-id-headers", false, "echo X-Request-Id (--enable-request-id-headers)")
	f.DurationVar(&s.engine.Comments, "sse-comments", 0, "a stream silent for this long gets a comment, and again; 0 = none")
	f.DurationVar(&s.engine.Loading, "loading", 0, "time after the start in which llamacpp refuses everything and sglang is not healthy")
	f.DurationVar(&s.grace, "grace", 30*time.Second, "time for requests in progress after SIGTERM")
	f.Usage = func() { usage(f) }
	if err := f.Parse(args); err != nil {
		return s, err
	}
	if f.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if all := mockvllm.Dialects(); !slices.Contains(all, s.engine.Dialect) {
		return s, fmt.Errorf("unknown -dialect %q, want one of %s", s.engine.Dialect, strings.Join(all, ", "))
	}
	s.engine.Models = strings.Split(s.models, ",")
	return s, nil
}

func usage(f *flag.FlagSet) {
	out := f.Output()
	fmt.Fprint(out, `mockvllm serves a fake inference engine for tests and load runs.

  mockvllm -listen 127.0.0.1:9001 -admin 127.0.0.1:9101 -name a -ttft 50ms -itl 10ms

Flags:
`)
	f.PrintDefaults()
	fmt.Fprint(out, `
Fields of a request body for the mock alone:
  mock_tag        text mixed into every token of the answer
  mock_tokens     length after which the model ends by itself
  mock_prefill_ms least time from admission to the first token
  mock_reasoning  leading tokens that are reasoning
  mock_fault      "name=arg" or {"fault":"name=arg","engines":["a"]}

The same by header: x-mock-tag, x-mock-fault; or for any request, by admin port:
  curl -d '{"fault":"503","count":2,"for":"2s","path":"/v1/completions"}' 127.0.0.1:9101/fault
  curl -X DELETE 127.0.0.1:9101/fault
  curl 127.0.0.1:9101/ledger?state=aborted

Faults and their arguments:
`)
	faults := mockvllm.FaultNames()
	for _, name := range slices.Sorted(maps.Keys(faults)) {
		fmt.Fprintf(out, "  %-18s %s\n", name, faults[name])
	}
}

func run(args []string) error {
	s, err := parse(args)
	if err != nil {
		return err
	}
	s.engine.OnDie = func() { os.Exit(137) }
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	ln, err := net.Listen("tcp", s.listen)
	if err != nil {
		return fmt.Errorf("cannot listen on -listen: %w", err)
	}
	e := mockvllm.New(s.engine)
	failed := make(chan error, 2)
	go func() { failed <- e.Serve(ln) }()
	if s.admin != "" {
		adminLn, err := net.Listen("tcp", s.admin)
		if err != nil {
			return errors.Join(fmt.Errorf("cannot listen on -admin: %w", err), e.Close())
		}
		srv := &http.Server{Handler: e.Admin(), ReadHeaderTimeout: 10 * time.Second}
		defer srv.Close()
		go func() { failed <- srv.Serve(adminLn) }()
		s.admin = adminLn.Addr().String()
	}
	fmt.Printf("mockvllm %s ready: %s on %s, admin on %s\n", s.engine.Name, s.engine.Dialect, ln.Addr(), s.admin)
	select {
	case err = <-failed:
		return errors.Join(err, e.Close())
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), s.grace)
	defer cancel()
	return e.Shutdown(grace)
}
