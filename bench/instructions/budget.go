package main

import (
	"fmt"
	"go/version"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// tolerance is how far a count may be above its budget. Two runs differ by a
// thirtieth of it at most.
const tolerance = 0.03

const renew = "To renew it: go run ./bench/instructions -update"

// budget is the file of budgets: a line for the platform, then one for each
// count; lines that begin with # are for people.
type budget struct {
	platform string
	limits   map[string]int // instructions, by a measure's name
}

// platform is what a budget holds for. Patch releases of Go share one.
func platform() string {
	return version.Lang(runtime.Version()) + " " + runtime.GOOS + "/" + runtime.GOARCH
}

func readBudget(path string) (*budget, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the budget: %w. %s", err, renew)
	}
	b := &budget{limits: map[string]int{}}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		if b.platform == "" {
			b.platform = line
			continue
		}
		name, limit, _ := strings.Cut(line, " ")
		n, err := strconv.Atoi(strings.TrimSpace(limit))
		if err != nil || n <= 0 {
			return nil, fmt.Errorf("cannot understand the line %q of %s", line, path)
		}
		b.limits[name] = n
	}
	return b, nil
}

func writeBudget(path string, counts []count) error {
	var out strings.Builder
	fmt.Fprintf(&out, "# The instructions that the gateway may execute for each of these. The check\n"+
		"# fails when a count is more than %.0f %% above; it holds for this Go and platform\n"+
		"# only. %s\n%s\n", 100*tolerance, renew, platform())
	for _, c := range counts {
		fmt.Fprintf(&out, "%-15s %6d\n", c.name, c.instructions())
	}
	return os.WriteFile(path, []byte(out.String()), 0o644)
}

// change is by how much a count differs from its budget, as a share of it.
func (b *budget) change(c count) float64 {
	limit := b.limits[c.name]
	return float64(c.instructions()-limit) / float64(limit)
}

// check tells which counts are over their budgets, or have none, and what else
// is worth knowing.
func (b *budget) check(counts []count) (over, notes []string) {
	for _, c := range counts {
		switch {
		case b.limits[c.name] == 0:
			over = append(over, fmt.Sprintf("FAILED: %s has no budget. %s", c.name, renew))
		case b.change(c) > tolerance:
			over = append(over, fmt.Sprintf("FAILED: %s takes %d instructions, %.1f %% more than its budget of %d; %.0f %% is allowed. To see where: go run ./bench/instructions -profile",
				c.name, c.instructions(), 100*b.change(c), b.limits[c.name], 100*tolerance))
		case b.change(c) < -tolerance:
			notes = append(notes, fmt.Sprintf("%s takes %.1f %% less than its budget: lower it, so that the gain stays. %s", c.name, -100*b.change(c), renew))
		}
	}
	return over, notes
}
