package app_test

import (
	"fmt"
	"syscall"
	"testing"
	"time"
)

// survival is a gateway under load in front of three engines.
type survival struct {
	*load
	engines []*fakeEngine
	gateway *gatewayProcess
	base    footprint
	rate    int
	dead    time.Duration // the checks declare an engine dead after this at the latest
}

func startSurvival(t *testing.T) *survival {
	s := &survival{rate: 100}
	// A refused check comes at once, one without an answer takes timeout: it is
	// generous, so that a slow machine kills no engine.
	const interval, threshold = 200 * time.Millisecond, 2
	timeout := time.Second
	if long {
		s.rate, timeout = 300, 200*time.Millisecond
	}
	s.dead = max(interval, timeout)*threshold + timeout
	for i := range 3 {
		s.engines = append(s.engines, startFakeEngine(t, "-name", fmt.Sprint("e", i), "-itl", "20ms"))
	}
	s.gateway = startGateway(t, backendsYAML(s.engines)+
		fmt.Sprintf("health_check: {interval: %v, timeout: %v, unhealthy_threshold: %d, healthy_threshold: 1}\n", interval, timeout, threshold))
	s.serving(0, 1, 2)
	s.base = s.gateway.footprint()
	s.load = startLoad(t, s.gateway.url, "mock-model", s.rate, 30)
	s.run(t, 1, 3)
	return s
}

// run lets the load run for about so many seconds.
func (s *survival) run(t *testing.T, usual, full int) {
	t.Helper()
	if long {
		usual = full
	}
	s.more(t, s.rate*usual)
}

// serving waits until the gateway sends requests to these engines.
func (s *survival) serving(engines ...int) {
	s.gateway.t.Helper()
	for _, i := range engines {
		s.gateway.until(fmt.Sprintf("llmproxy_backend_healthy{backend=\"e%d\"}", i), is(1))
		if s.load == nil {
			continue
		}
		ok := fmt.Sprintf(`llmproxy_attempts_total{backend="e%d",outcome="ok"}`, i)
		s.gateway.until(ok, atLeast(s.gateway.metric(ok)+3))
	}
}

// end stops the load; every stream that was cut must have been told within d
// of from, which it returns the longest of.
func (s *survival) end(t *testing.T, from time.Time, d time.Duration) (streams int) {
	t.Helper()
	_, cutShort := s.finish(t)
	last := time.Duration(0)
	for _, r := range cutShort {
		last = max(last, r.ended.Sub(from))
		if took := r.ended.Sub(from); took < 0 || took > d {
			t.Errorf("a stream was told %v after the engine went, want at most %v", took, d)
		}
	}
	t.Logf("%d streams cut, the last was told after %v", len(cutShort), last)
	s.gateway.nothingLeft(s.base, "e0", "e1", "e2")
	return len(cutShort)
}

// TestEngineKilled: whatever ends an engine, a request that has no first byte
// is served by another, and a stream in the middle is told of its end.
func TestEngineKilled(t *testing.T) {
	leavesNothing(t)
	told := time.Second
	if !long {
		told *= 10
	}
	t.Run("all", func(t *testing.T) {
		t.Run("SIGKILL", func(t *testing.T) { together(t); killed(t, told) })
		t.Run("SIGSTOP", func(t *testing.T) { together(t); stopped(t, told) })
		for name, s := range map[string]syscall.Signal{"SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL} {
			t.Run("all restarted by "+name, func(t *testing.T) { together(t); restarted(t, s) })
		}
	})
}

func killed(t *testing.T, told time.Duration) {
	s := startSurvival(t)
	at := time.Now()
	s.engines[0].kill()
	s.run(t, 2, 20)
	s.engines[0].start(t)
	s.serving(0)
	s.run(t, 1, 5)
	if s.end(t, at, told) == 0 {
		t.Error("no stream was cut: the engine had none")
	}
}

// stopped: an engine that hangs is as good as dead once the checks say so, and
// comes back.
func stopped(t *testing.T, told time.Duration) {
	s := startSurvival(t)
	at := time.Now()
	s.engines[1].signal(syscall.SIGSTOP)
	s.gateway.until(`llmproxy_backend_healthy{backend="e1"}`, is(0))
	t.Logf("declared dead after %v", time.Since(at))
	s.gateway.until(`llmproxy_requests_in_flight{backend="e1"}`, is(0))
	t.Logf("nothing waits for it after %v", time.Since(at))
	s.run(t, 1, 20)
	s.engines[1].signal(syscall.SIGCONT)
	s.serving(1)
	s.run(t, 1, 5)
	if s.end(t, at, s.dead+told) == 0 {
		t.Error("no stream was cut: the engine had none")
	}
}

// restarted: engines that are restarted one after the other, as a deployment
// does, cost no request; the streams of those that do not drain are told.
func restarted(t *testing.T, by syscall.Signal) {
	s := startSurvival(t)
	begin := time.Now()
	for i, e := range s.engines {
		e.signal(by)
		e.exit()
		t.Logf("e%d ended", i)
		s.run(t, 1, 3)
		e.start(t)
		s.gateway.until(fmt.Sprintf("llmproxy_backend_healthy{backend=\"e%d\"}", i), is(1))
		s.run(t, 1, 3)
	}
	took := time.Since(begin)
	t.Logf("all restarted in %v", took)
	if n := s.end(t, begin, took+s.dead); by == syscall.SIGTERM && n > 0 {
		t.Errorf("%d streams were cut by engines that drain", n)
	}
}
