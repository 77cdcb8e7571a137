package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// counted is a count of n instructions.
func counted(name string, n int) count {
	return count{measure{name: name}, &profile{total: uint64(n) * batch}}
}

func TestReport(t *testing.T) {
	const limit = 10_000
	for _, c := range []struct {
		name     string
		platform string
		counted  count
		exit     int
		says     string
	}{
		{"a count as before", platform(), counted("request", limit), 0, "+0.00 %"},
		{"growth within the tolerance is let through", platform(), counted("request", 10_300), 0, "+3.00 %"},
		{"growth beyond it is not", platform(), counted("request", 10_301), exitOver, "FAILED: request takes 10301 instructions, 3.0 % more"},
		{"a gain that the budget does not keep goes unnoticed", platform(), counted("request", 9_600), 0, "lower it"},
		{"a new measure without a budget goes unchecked", platform(), counted("other", limit), exitOver, "FAILED: other has no budget"},
		{"another compiler blocks an update of Go", "go1.2 plan9/386", counted("request", 2*limit), 0, "NOT COMPARED"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			b := &budget{c.platform, map[string]int{"request": limit}}
			if exit := report(&out, []count{c.counted}, b); exit != c.exit || !strings.Contains(out.String(), c.says) {
				t.Errorf("exit code %d, want %d, and %q in\n%s", exit, c.exit, c.says, out.String())
			}
		})
	}
}

func TestBudgetIsReadAsItWasWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "budget.txt")
	if err := writeBudget(path, []count{counted("request", 44_471), counted("event", 7_487)}); err != nil {
		t.Fatal(err)
	}
	b, err := readBudget(path)
	if err != nil {
		t.Fatal(err)
	}
	if b.platform != platform() || len(b.limits) != 2 || b.limits["request"] != 44_471 || b.limits["event"] != 7_487 {
		t.Errorf("got %+v", b)
	}
}

func TestBudgetThatCannotBeRead(t *testing.T) {
	for _, c := range []struct{ name, text string }{
		{"a name alone counts as no budget", "go1.26 linux/amd64\nrequest\n"},
		{"a budget of nothing divides by zero", "go1.26 linux/amd64\nrequest 0\n"},
		{"a count with a unit is cut short", "go1.26 linux/amd64\nrequest 44k\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "budget.txt")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			if b, err := readBudget(path); err == nil {
				t.Errorf("got %+v", b)
			}
		})
	}
}

func TestMissingValgrindIsSaid(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var out, errs strings.Builder
	if exit := run(nil, &out, &errs); exit != exitFailed || !strings.Contains(errs.String(), "apt-get install valgrind") {
		t.Errorf("exit code %d, want %d, and how to install it in %q", exit, exitFailed, errs.String())
	}
}

// The committed file must have a line for every measure, or CI fails late.
func TestCommittedBudgetIsComplete(t *testing.T) {
	b, err := readBudget("../budget.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range measures {
		if b.limits[m.name] == 0 {
			t.Errorf("%s has no budget", m.name)
		}
	}
	if len(b.limits) != len(measures) {
		t.Errorf("%d budgets for %d measures", len(b.limits), len(measures))
	}
}
