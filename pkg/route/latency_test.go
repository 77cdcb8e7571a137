package route

import (
	"testing"
	"time"
)

func TestLatencyPrefersTheFasterPerLoadAndWeight(t *testing.T) {
	for _, c := range []struct {
		what    string
		specs   []string
		prepare func(b []*Backend)
		want    string
	}{
		{"the faster", []string{"a", "b"}, func(b []*Backend) {
			b[0].Observe(300*time.Millisecond, noon)
			b[1].Observe(100*time.Millisecond, noon)
		}, "b"},
		{"not the faster when it has more in flight", []string{"a", "b"}, func(b []*Backend) {
			b[0].Observe(300*time.Millisecond, noon)
			b[1].Observe(100*time.Millisecond, noon)
			for range 3 {
				b[1].Enter()
			}
		}, "a"},
		{"the heavier", []string{"a", "b*4"}, func(b []*Backend) {
			b[0].Observe(100*time.Millisecond, noon)
			b[1].Observe(300*time.Millisecond, noon)
		}, "b"},
		{"unknown and idle: find out", []string{"a", "b"}, func(b []*Backend) {
			b[0].Observe(time.Millisecond, noon)
		}, "b"},
		{"unknown and busy counts as 1 s", []string{"a", "b"}, func(b []*Backend) {
			b[0].Observe(1900*time.Millisecond, noon)
			b[1].Enter()
		}, "a"},
		{"unknown and busy is still better than very slow", []string{"a", "b"}, func(b []*Backend) {
			b[0].Observe(2100*time.Millisecond, noon)
			b[1].Enter()
		}, "b"},
		{"one that refuses quickly does not look fast", []string{"a", "b"}, func(b []*Backend) {
			b[0].Observe(10*time.Millisecond, noon)
			b[0].Penalize(noon)
			b[1].Observe(2*time.Second, noon)
		}, "b"},
		{"a peak counts at once", []string{"a", "b"}, func(b []*Backend) {
			for range 100 {
				b[0].Observe(10*time.Millisecond, noon)
			}
			b[0].Observe(time.Second, noon)
			b[1].Observe(500*time.Millisecond, noon)
		}, "b"},
		{"one quick answer does not make up for a peak", []string{"a", "b"}, func(b []*Backend) {
			b[0].Observe(time.Second, noon.Add(-time.Second))
			b[0].Observe(10*time.Millisecond, noon)
			b[1].Observe(500*time.Millisecond, noon)
		}, "b"},
		{"quick answers over 20 s do", []string{"a", "b"}, func(b []*Backend) {
			for s := range 21 {
				b[0].Observe(time.Second>>min(s, 7), noon.Add(time.Duration(s-20)*time.Second))
			}
			b[1].Observe(500*time.Millisecond, noon)
		}, "a"},
		{"a penalty never improves what is slower still", []string{"a", "b"}, func(b []*Backend) {
			b[0].Observe(20*time.Second, noon.Add(-time.Minute))
			b[0].Penalize(noon)
			b[1].Observe(19*time.Second, noon)
		}, "b"},
	} {
		p := poolOf(t, Latency, c.specs...)
		c.prepare(p.Backends())
		if b := mustPick(t, p, noon, ""); b.Name != c.want {
			t.Errorf("%s: picked %s, want %s", c.what, b.Name, c.want)
		}
	}
}

func TestASlowIdleBackendIsTriedAgainByOneRequest(t *testing.T) {
	p := poolOf(t, Latency, "slow", "fast")
	slow, fast := p.Backends()[0], p.Backends()[1]
	slow.Observe(2*time.Second, noon)
	now := noon
	for ; now.Before(noon.Add(2 * time.Minute)); now = now.Add(100 * time.Millisecond) {
		fast.Observe(100*time.Millisecond, now)
		b := mustPick(t, p, now, "")
		if b == slow {
			break
		}
		b.Leave()
	}
	if waited := now.Sub(noon); waited < 20*time.Second || waited > time.Minute {
		t.Fatalf("the slow backend was tried again after %v", waited)
	}
	for range 10 {
		if b := mustPick(t, p, now, ""); b == slow {
			t.Fatal("a second request was sent to find out")
		}
	}
}

// Two backends, one five times slower: nearly all requests go to the fast one,
// however many there are at a time.
func TestLatencyUnderLoad(t *testing.T) {
	p := poolOf(t, Latency, "slow", "fast")
	type stream struct {
		b    *Backend
		ends time.Time
	}
	var open []stream
	got := map[string]int{}
	for now := noon; now.Before(noon.Add(time.Minute)); now = now.Add(20 * time.Millisecond) {
		for len(open) > 0 && !open[0].ends.After(now) {
			open[0].b.Leave()
			open = open[1:]
		}
		b := mustPick(t, p, now, "")
		ttft := 100 * time.Millisecond
		if b.Name == "slow" {
			ttft *= 5
		}
		b.Observe(ttft, now)
		open = append(open, stream{b, now.Add(200 * time.Millisecond)})
		got[b.Name]++
	}
	if share := float64(got["fast"]) / float64(got["fast"]+got["slow"]); share < 0.75 || share > 0.95 {
		t.Errorf("the fast backend got %.0f %% of the requests: %v", 100*share, got)
	}
}
