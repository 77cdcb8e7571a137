package main

import (
	"slices"
	"testing"

	"github.com/llmproxy/llmproxy/bench/results"
)

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		kind kind
		last string // of the peers; "": all
	}{
		{"everything", nil, sideBySide, ""},
		{"a short run installs for minutes", []string{"-short"}, sideBySide, results.ReverseProxy},
		{"metering is compared with other gateways", []string{"-usage"}, usages, results.OursMetered},
		{"limits are compared with metering", []string{"-limits", "-short"}, limits, results.OursManyKeys},
		{"a Redis is compared with other gateways", []string{"-cluster"}, clusters, results.OursThree},
		{"a choice is overruled", []string{"-limits", "-peers", "llmproxy,llmproxy-quota"}, limits, results.OursQuota},
	} {
		o, err := parse(c.args)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		last := ""
		if len(o.peers) > 0 {
			last = o.peers[len(o.peers)-1]
		}
		if o.kind != c.kind || last != c.last {
			t.Errorf("%s: %s of %v", c.name, o.kind, o.peers)
		}
	}
	for _, args := range [][]string{{"-usage", "-limits"}, {"-limits", "-cluster"}} {
		if o, err := parse(args); err == nil {
			t.Errorf("%q at once: %+v", args, o)
		}
	}
}

// A twin that is not in the catalogue ends the run when it has hardly begun.
func TestTwinsAreThere(t *testing.T) {
	all := slices.Concat([]peer{{name: results.Direct}}, catalogue(), withKeys(), withRedis())
	for kind, names := range twins {
		chosen, err := choose(all, names)
		if err != nil || len(chosen) != len(names) {
			t.Errorf("%s: %d of %v (%v)", kind, len(chosen), names, err)
		}
		for _, name := range names {
			if ours := slices.Contains(names[1:], name); ours != results.IsOurs(name) {
				t.Errorf("%s is ours: %v", name, !ours)
			}
		}
	}
}
