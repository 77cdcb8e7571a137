// Command instructions counts the instructions that the gateway executes for a
// request, and for an event of a stream, and compares them with a committed
// budget. Unlike time, they do not drift with the machine.
//
// The real binary runs under valgrind's callgrind, with one P and no garbage
// collection; client and engine are outside, and never send before the gateway
// sleeps. Counted is what it executes itself, in the Go runtime too; what the
// kernel does for it is not, nor reading the clock, which valgrind makes a
// system call. The least of some batches is the result: whatever else goes on in
// the process, such as the clock of the Date header, only adds.
//
// The exit code is 1 when a count is over its budget or has none, and 2 when
// there is nothing to compare. A budget for another Go or another platform is
// not compared, which is said and is no failure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"text/tabwriter"
)

const (
	exitOver   = 1
	exitFailed = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("instructions", flag.ContinueOnError)
	flags.SetOutput(stderr)
	path := flags.String("budget", "bench/budget.txt", "the `file` of budgets")
	update := flags.Bool("update", false, "write the counts into the file of budgets")
	profiles := flags.Bool("profile", false, "show the 25 functions that execute most, for each count")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitFailed
	}
	if _, err := exec.LookPath("valgrind"); err != nil {
		fmt.Fprintln(stderr, "valgrind is not installed; on Debian: apt-get install valgrind")
		return exitFailed
	}
	var b *budget // nil: to be written
	var err error
	if !*update {
		if b, err = readBudget(*path); err != nil {
			fmt.Fprintln(stderr, err)
			return exitFailed
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	counts, err := measureAll(ctx)
	if err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	if *profiles {
		writeProfiles(stdout, counts)
	}
	if !*update {
		return report(stdout, counts, b)
	}
	writeTable(stdout, counts, nil)
	if err := writeBudget(*path, counts); err != nil {
		fmt.Fprintln(stderr, err)
		return exitFailed
	}
	fmt.Fprintln(stdout, "written to", *path)
	return 0
}

// report prints the table and what follows from it.
func report(w io.Writer, counts []count, b *budget) int {
	if b.platform != platform() {
		writeTable(w, counts, nil)
		fmt.Fprintf(w, "NOT COMPARED: the budget is for %s, this is %s; another compiler makes other instructions. %s\n", b.platform, platform(), renew)
		return 0
	}
	writeTable(w, counts, b)
	over, notes := b.check(counts)
	for _, line := range append(notes, over...) {
		fmt.Fprintln(w, line)
	}
	if len(over) > 0 {
		return exitOver
	}
	return 0
}

// writeTable prints the counts, beside their budgets when there are any.
func writeTable(w io.Writer, counts []count, b *budget) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tinstructions\tbudget\tchange\t")
	for _, c := range counts {
		limit, change := "-", "-"
		if b != nil && b.limits[c.name] > 0 {
			limit, change = fmt.Sprint(b.limits[c.name]), fmt.Sprintf("%+.2f %%", 100*b.change(c))
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%s\t  %s\n", c.name, c.instructions(), limit, change, c.what)
	}
	_ = t.Flush() // to a terminal: nobody could act on it
}

func writeProfiles(w io.Writer, counts []count) {
	for _, c := range counts {
		fmt.Fprintf(w, "%s: %s, %d instructions\n", c.name, c.what, c.instructions())
		c.profile.top(w, 25)
		fmt.Fprintln(w)
	}
}
