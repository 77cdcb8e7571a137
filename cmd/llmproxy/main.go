// Command llmproxy is a gateway in front of LLM inference servers.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/VictoriaMetrics/metrics"

	"github.com/llmproxy/llmproxy/pkg/app"
	"github.com/llmproxy/llmproxy/pkg/config"
)

// version is set by the release build; a build from a checkout names its
// commit.
var version = ""

//go:embed default.yaml
var defaultConfig []byte

// command is what may stand after llmproxy.
type command struct {
	name  string
	args  string // a flag with its value, or words with | between them
	does  string
	flags []option
}

// option is a flag.
type option struct {
	name, does string
	value      value
}

// value is what stands behind a flag.
type value uint8

const (
	aText value = iota
	aFile
	nothing
)

func commands() []command {
	config, data := option{"config", "configuration file", aFile}, option{"data", "data directory", aFile}
	return []command{
		{"serve", "[-config file]", "run the gateway", []option{config}},
		{"check", "-config file", "say whether the file is right, and what it means", []option{config}},
		{"usage", "verify|export", "check, or add up, what requests used; -h tells more", []option{
			config,
			data,
			{"from", "first day", aText},
			{"to", "last day", aText},
			{"by", "columns", aText},
			{"format", "table, csv or json", aText},
		}},
		{"keys", "new|list|revoke|hash", "make, show and revoke keys; -h tells more", append([]option{
			config,
			data,
			{"format", "table or json", aText},
			{"delete", "take the key out of the file", nothing},
		}, newKeyOptions()...)},
		{"schema", "", "print the JSON Schema of the file, for editors", nil},
		{"completion", "bash|zsh|fish", "print what completes these commands in a shell", nil},
		{"version", "", "print the version", nil},
		{"help", "", "print this", nil},
	}
}

// usage is what help prints.
func usage() string {
	var b strings.Builder
	b.WriteString("llmproxy: a gateway in front of your own LLM inference servers\n\nUsage:\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  llmproxy %-10s %-20s %s\n", c.name, c.args, c.does)
	}
	b.WriteString(notes)
	return b.String()
}

const notes = `
Without -config, serve uses a built-in configuration: it listens on
127.0.0.1:8000 and forwards to engines on 127.0.0.1:9001, 9002 and 9003.

A value of the file is overridden by an environment variable named after its
key: LLMPROXY__SERVER__MAX_BODY_SIZE=16MiB. SIGHUP, and a change of the file,
reload it; SIGTERM drains and stops.
`

// Exit codes: 1 for what went wrong while running, 2 for a wrong command line
// or configuration.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage())
		return exitUsage
	}
	flags := flag.NewFlagSet("llmproxy "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage()) }
	path := flags.String("config", "", "")
	switch args[0] {
	case "serve", "check":
		if err := flags.Parse(args[1:]); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return 0
			}
			return exitUsage
		}
		if flags.NArg() > 0 {
			return misused(stderr, "unexpected argument %q", flags.Arg(0))
		}
		if args[0] == "check" {
			return check(*path, stdout, stderr)
		}
		return serve(*path, stderr)
	case "usage":
		return journalUsage(args[1:], stdout, stderr)
	case "keys":
		return manageKeys(args[1:], os.Stdin, stdout, stderr)
	case "schema":
		return write(string(config.Schema()), stdout, stderr)
	case "completion":
		script, ok := completion(args[1:])
		if !ok {
			return misused(stderr, "completion needs the name of a shell: bash, zsh or fish")
		}
		return write(script, stdout, stderr)
	case "version", "-version", "--version":
		fmt.Fprintf(stdout, "llmproxy %s %s %s/%s\n", buildVersion(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return 0
	case "help", "-h", "-help", "--help":
		return write(usage(), stdout, stderr)
	}
	return misused(stderr, "unknown command %q", args[0])
}

// misused says what is wrong with the command line, and how it is used.
func misused(stderr io.Writer, format string, args ...any) int {
	fmt.Fprintf(stderr, format+"\n\n%s", append(args, usage())...)
	return exitUsage
}

// write fails on a full disk: half a schema or script must not look whole.
func write(text string, stdout, stderr io.Writer) int {
	if _, err := io.WriteString(stdout, text); err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	return 0
}

func load(path string) (*config.Config, error) {
	if path == "" {
		return config.Parse("built-in", defaultConfig, os.Environ())
	}
	return config.Load(path, os.Environ())
}

func check(path string, stdout, stderr io.Writer) int {
	if path == "" {
		return misused(stderr, "check needs -config file")
	}
	c, err := load(path)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	c.Describe(stdout)
	for _, w := range c.Warnings() {
		fmt.Fprintln(stdout, "warning:", w)
	}
	fmt.Fprintf(stdout, "\n%s: ok\n", path)
	return 0
}

func serve(path string, stderr io.Writer) int {
	c, err := load(path)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitUsage
	}
	log := newLog(c, stderr)
	for _, w := range c.Warnings() {
		log.Warn(w)
	}
	metrics.ExposeMetadata(true)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP) // before anything that can be reloaded
	signal.Ignore(syscall.SIGPIPE)     // a log reader that went away is no reason to stop
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	a, err := app.New(c, app.Options{Version: buildVersion(), GoVersion: runtime.Version(), Log: log, Load: func() (*config.Config, error) { return load(path) }})
	if err != nil {
		log.Error("cannot start", "error", err)
		return exitFailed
	}
	log.Info("serving", "address", a.Addr().String(), "backends", len(c.Backends), "version", buildVersion())
	service := &app.Service{Log: log}
	service.Ready(status(a, c))
	ended, end := context.WithCancel(context.Background())
	defer end()
	go service.Watchdog(ended, a.Alive)
	reloadOnChange(ctx, a, service, hup, path, log)
	<-ctx.Done()
	stop() // a second signal ends the process at once
	service.Stopping()
	a.Close()
	return 0
}

// reloadOnChange reloads on SIGHUP and on a change of the file.
func reloadOnChange(ctx context.Context, a *app.App, service *app.Service, hup <-chan os.Signal, path string, log *slog.Logger) {
	if path == "" {
		return // nothing to read anew; the signal is ignored
	}
	changed := make(chan struct{}, 1)
	err := app.WatchFile(ctx, path, log, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	if err != nil {
		log.Warn("cannot watch the configuration file; SIGHUP still works", "file", path, "error", err)
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-hup:
			case <-changed:
			}
			service.Reloading()
			service.Ready(reload(a, path, log))
		}
	}()
}

// reload returns what there is to say about the service from then on.
func reload(a *app.App, path string, log *slog.Logger) string {
	c, err := a.ReloadFile()
	if err != nil {
		log.Error("the configuration was not reloaded; the old one stays in force", "file", path, "error", err)
		return "serving; the configuration was not reloaded, the log tells why"
	}
	log.Info("configuration reloaded", "file", path, "backends", len(c.Backends))
	return status(a, c)
}

// status is what the service manager shows of a gateway that serves.
func status(a *app.App, c *config.Config) string {
	return fmt.Sprintf("serving %d backends on %s", len(c.Backends), a.Addr())
}

func newLog(c *config.Config, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Log.Level)) // config knows the four names
	o := &slog.HandlerOptions{Level: level}
	if c.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" && len(s.Value) >= 12 {
				return "dev-" + s.Value[:12]
			}
		}
	}
	return "dev"
}
