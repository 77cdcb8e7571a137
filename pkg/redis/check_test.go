package redis_test

import (
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/redis"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

func TestCheckSaysWhatIsNotToBeTrusted(t *testing.T) {
	good := []string{"--appendonly", "yes"}
	for name, test := range map[string]struct {
		args, before []string
		want         []string // one of each warning, in order
	}{
		"all well":           {args: good},
		"snapshots":          {args: []string{"--save", "900 1"}},
		"nothing kept":       {want: []string{"nothing is persisted"}},
		"evicts":             {args: append(good, "--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"), want: []string{"maxmemory-policy is allkeys-lru"}},
		"would evict":        {args: append(good, "--maxmemory-policy", "allkeys-lru")},
		"full":               {args: append(good, "--maxmemory", "1gb")},
		"replica":            {args: good, before: []string{"REPLICAOF", "127.0.0.1", "1"}, want: []string{"this is a replica"}},
		"node of a cluster":  {args: append(good, "--cluster-enabled", "yes"), want: []string{"set mode: cluster"}},
		"config forbidden":   {before: []string{"ACL", "SETUSER", "default", "-config"}, want: []string{"CONFIG GET save is forbidden"}},
		"info forbidden":     {args: good, before: []string{"ACL", "SETUSER", "default", "-info"}, want: []string{"may not run INFO"}},
		"config not there":   {args: []string{"--rename-command", "CONFIG", ""}, want: []string{"CONFIG GET save is forbidden"}},
		"two things at once": {args: []string{"--maxmemory", "1gb", "--maxmemory-policy", "volatile-ttl"}, want: []string{"volatile-ttl", "nothing is persisted"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := redistest.Start(t, test.args...)
			if test.before != nil {
				s.Must(test.before...)
			}
			c := connected(t, redis.Options{Addrs: []string{s.Addr()}})
			got, err := c.Check(long)
			if err != nil || len(got) != len(test.want) {
				t.Fatalf("got %q, %v", got, err)
			}
			for i, want := range test.want {
				if !strings.Contains(got[i], want) || !strings.HasPrefix(got[i], s.Addr()+": ") {
					t.Errorf("%q does not say %q", got[i], want)
				}
			}
		})
	}
}

func TestCheckAsksAllMastersOfACluster(t *testing.T) {
	nodes := redistest.StartCluster(t, 3, 3)
	c := connected(t, redis.Options{Addrs: nodes.Addrs()[:1], Mode: redis.Cluster})
	got, err := c.Check(long)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range got {
		if !strings.Contains(w, "nothing is persisted") {
			t.Errorf("got %q", w)
		}
	}
	if len(got) != 3 {
		t.Errorf("%d of 3 masters: %q", len(got), got)
	}
}

func TestCheckKnowsAServerFromACluster(t *testing.T) {
	s := redistest.Start(t, "--appendonly", "yes")
	c := connected(t, redis.Options{Addrs: []string{s.Addr()}, Mode: redis.Cluster})
	got, err := c.Check(long)
	if err != nil || len(got) != 1 || !strings.Contains(got[0], "leave mode: cluster out") {
		t.Errorf("got %q, %v", got, err)
	}
}
