package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/llmproxy/llmproxy/pkg/events"
)

const usageHelp = `llmproxy usage: what the journal of a gateway holds

Usage:
  llmproxy usage verify -config file | -data dir
  llmproxy usage export -config file | -data dir [-from day] [-to day] [-by columns] [-format table|csv|json]

verify says whether the journal is whole; if not, the exit code is 1. export adds
up what requests used. Both read the journal of a gateway that runs, too, and
change nothing. What usage_hook.retention has let go, neither sees; what was not
reported to anybody, because the hook was off, both do until then.

  -config file   the gateway's configuration, for its data_dir
  -data dir      the data_dir itself; systemd's is /var/lib/llmproxy
  -from, -to     first and last day, as in 2026-11-30; by UTC, and by the end of a request
  -by columns    what to add up by: of key, name, user, model, served_model, backend,
                 endpoint and day; default key,model,day; "" is all in one
  -format        table (default), csv or json
`

// journalUsage is the command "usage".
func journalUsage(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("llmproxy usage", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usageHelp) }
	config, data := flags.String("config", "", ""), flags.String("data", "", "")
	wrong := func(format string, args ...any) int {
		fmt.Fprintf(stderr, format+"\n\n%s", append(args, usageHelp)...)
		return exitUsage
	}
	what := ""
	if len(args) > 0 {
		what = args[0]
	}
	do := verify
	switch what {
	case "verify":
	case "export":
		var e export
		e.flags(flags)
		do = e.run
	case "-h", "-help", "--help":
		return write(usageHelp, stdout, stderr)
	default:
		return wrong("usage needs one of verify and export")
	}
	if err := flags.Parse(args[1:]); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return exitUsage // flags has said why
	}
	switch {
	case flags.NArg() > 0:
		return wrong("unexpected argument %q", flags.Arg(0))
	case (*config == "") == (*data == ""):
		return wrong("usage needs -config file or -data dir")
	case *config != "":
		c, err := load(*config)
		if err != nil {
			fmt.Fprintln(stderr, err)
			return exitUsage
		}
		*data = c.DataDir
	}
	if err := do(*data, stdout); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = fmt.Errorf("%w: has a gateway with this data_dir ever run with usage_hook.enabled, or with keys that have a quota? Under systemd it is /var/lib/llmproxy", err)
		}
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	return 0
}

// verify writes what is in the journal and what is wrong with it, and returns an
// error if something is.
func verify(dir string, stdout io.Writer) error {
	var n, first, last uint64
	var faults []string
	report, err := events.Read(dir, func(e events.Event) error {
		switch {
		case n == 0:
			first = e.Number
		case e.Number <= last:
			faults = append(faults, fmt.Sprintf("event %d comes after event %d", e.Number, last))
		case e.Number > last+1:
			faults = append(faults, fmt.Sprintf("the events from %d to %d are missing", last+1, e.Number-1))
		}
		last = e.Number
		n++
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot read the journal in %s: %w", dir, err)
	}
	for _, c := range report.Corrupt {
		faults = append(faults, fmt.Sprintf("%s is damaged at offset %d: %d bytes, %d records are missing", c.File, c.Offset, c.Bytes, c.Records))
	}
	t := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "directory\t%s\n", dir)
	fmt.Fprintf(t, "segments\t%d, %d bytes\n", report.Segments, report.Bytes)
	fmt.Fprintf(t, "records\t%d%s\n", report.Records, numbers(report.First, report.Last))
	fmt.Fprintf(t, "events\t%d%s\n", n, numbers(first, last))
	fmt.Fprintf(t, "torn\t%d bytes that were never whole records\n", report.Torn)
	for _, f := range faults {
		fmt.Fprintf(t, "fault\t%s\n", f)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(faults) > 0 {
		return fmt.Errorf("the journal in %s is not whole: %d faults", dir, len(faults))
	}
	return nil
}

func numbers(first, last uint64) string {
	if last == 0 {
		return ""
	}
	return fmt.Sprintf(", number %d to %d", first, last)
}

// export is what to add up, and how to show it.
type export struct {
	from, to string // days, "" for no limit
	by       []column
	format   string
}

// flags defines the flags of export, and checks them when they are parsed.
func (e *export) flags(flags *flag.FlagSet) {
	day := func(into *string) func(string) error {
		return func(s string) error {
			*into = s
			if _, err := time.Parse(time.DateOnly, s); err != nil {
				return errors.New("write a day as in 2026-11-30")
			}
			return nil
		}
	}
	flags.Func("from", "", day(&e.from))
	flags.Func("to", "", day(&e.to))
	e.by, _ = columns("key,model,day")
	flags.Func("by", "", func(s string) (err error) {
		e.by, err = columns(s)
		return err
	})
	e.format = "table"
	flags.Func("format", "", func(s string) error {
		e.format = s
		if s != "table" && s != "csv" && s != "json" {
			return errors.New("write table, csv or json")
		}
		return nil
	})
}

// run writes the totals of the journal in dir. What is there is written also
// when some of the journal is damaged, which is an error.
func (e *export) run(dir string, stdout io.Writer) error {
	groups := map[string]*group{}
	report, err := events.Read(dir, func(event events.Event) error {
		r := &event.Record
		if day := dayOf(r); (e.from != "" && day < e.from) || (e.to != "" && day > e.to) {
			return nil
		}
		e.group(groups, r).add(r)
		return nil
	})
	if err != nil {
		return fmt.Errorf("cannot read the journal in %s: %w", dir, err)
	}
	if err := e.write(stdout, sorted(groups)); err != nil {
		return err
	}
	if n := len(report.Corrupt); n > 0 {
		return fmt.Errorf("the journal in %s is damaged in %d places, and these totals may be too low: see llmproxy usage verify", dir, n)
	}
	return nil
}

func dayOf(r *events.Record) string { return r.Ended.UTC().Format(time.DateOnly) }

// group is one line of an export.
type group struct {
	cells []string // its value in each of the columns
	sums
}

// sums is what the requests of a group used.
type sums struct {
	requests, prompt, cached, completion, reasoning, total, estimated int64
	seconds                                                           float64
	outcomes                                                          [events.Interrupted + 1]int64
}

func (s *sums) add(r *events.Record) {
	s.requests++
	s.prompt += r.Prompt
	s.cached += r.Cached
	s.completion += r.Completion
	s.reasoning += r.Reasoning
	s.total += r.Total
	s.seconds += r.Seconds
	if r.Estimated {
		s.estimated++
	}
	s.outcomes[r.Outcome]++
}

// figures are the sums as they are written, under the names of measures.
func (s *sums) figures() []string {
	out := make([]string, 0, len(measures()))
	for _, n := range []int64{s.requests, s.prompt, s.cached, s.completion, s.reasoning, s.total} {
		out = append(out, strconv.FormatInt(n, 10))
	}
	out = append(out, strconv.FormatFloat(s.seconds, 'f', -1, 64), strconv.FormatInt(s.estimated, 10))
	for _, n := range s.outcomes {
		out = append(out, strconv.FormatInt(n, 10))
	}
	return out
}

func measures() []string {
	names := []string{
		"requests", "prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "total_tokens",
		"audio_seconds", "estimated",
	}
	for o := events.Complete; o <= events.Interrupted; o++ {
		names = append(names, o.String())
	}
	return names
}
