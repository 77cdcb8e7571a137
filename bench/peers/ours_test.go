package main

import (
	"io/fs"
	"path/filepath"
	"slices"
	"testing"

	"github.com/llmproxy/llmproxy/bench/results"
	"github.com/llmproxy/llmproxy/pkg/config"
)

// configured starts one of ours and returns what its processes are told.
func configured(t *testing.T, p peer) []*config.Config {
	t.Helper()
	dir := t.TempDir()
	if p.redis != nil {
		p.redis.addr = "127.0.0.1:6379"
	}
	if _, err := p.start(dir, "127.0.0.1:1234", "127.0.0.1:4321"); err != nil {
		t.Fatal(err)
	}
	var all []*config.Config
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		c, err := config.Load(path, nil)
		all = append(all, c)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// A setting that the gateway refuses would end a run when it has hardly begun.
func TestOursAreTakenByTheGateway(t *testing.T) {
	for _, p := range slices.Concat(ours(), withKeys(), withRedis()) {
		t.Run(p.name, func(t *testing.T) {
			all := configured(t, p)
			if len(all) != max(1, p.number) {
				t.Fatalf("%d configurations, want %d", len(all), max(1, p.number))
			}
			places := map[string]bool{}
			for _, c := range all {
				places[c.Listen], places[c.DataDir] = true, true
				if (c.LimitRedis() != nil) != (p.redis != nil) || (c.KeyRedis() != nil) != (p.redis != nil) {
					t.Errorf("keys at %+v, limits at %+v", c.KeyRedis(), c.LimitRedis())
				}
			}
			if c := all[0]; c.DataDir != "" && len(places) != 2*len(all) {
				t.Errorf("two have a place in common: %v", places)
			}
		})
	}
}

// What is told of a Redis must be of that alone.
func TestTwinsDifferInTheRedisAlone(t *testing.T) {
	of := map[string]*config.Config{}
	for _, p := range append(withKeys(), withRedis()...) {
		of[p.name] = configured(t, p)[0]
	}
	for redis, memory := range map[string]string{
		results.OursRedis: results.OursLimited, results.OursRedisQuota: results.OursQuota, results.OursThree: results.OursQuota,
	} {
		same := *of[redis]
		same.Redis, same.DataDir = of[memory].Redis, of[memory].DataDir
		same.Auth.Storage, same.RateLimit.Storage = of[memory].Auth.Storage, of[memory].RateLimit.Storage
		if same.Digest() != of[memory].Digest() {
			t.Errorf("%s differs from %s in more than its Redis", redis, memory)
		}
	}
}

// All that can be on has to be.
func TestAllIsOn(t *testing.T) {
	for _, p := range ours() {
		if p.name != results.OursAll {
			continue
		}
		c := configured(t, p)[0]
		for what, on := range map[string]bool{
			"keys": c.Auth.Enabled, "limits": c.RateLimit.Enabled, "metering": c.UsageHook.Enabled, "the access log": c.Log.Access,
			"metrics": c.Metrics.Enabled, "health checks": c.HealthCheck.Enabled, "retries": c.Routing.Retry.Enabled,
			"the admin API": c.Admin.Token != "", "CORS": c.CORS.Enabled, "a quota": p.redis.used.Quota > 0,
		} {
			if !on {
				t.Errorf("%s: off", what)
			}
		}
	}
}
