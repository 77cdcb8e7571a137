package config

import "testing"

func TestSameAddress(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{":8000", ":8000", true},
		{":8000", "0.0.0.0:8000", true},
		{"[::]:8000", "10.0.0.1:8000", true},
		{"localhost:8000", "127.0.0.1:8000", true},
		{"[::ffff:127.0.0.1]:8000", "127.0.0.1:8000", true},
		{"[::0:1]:8000", "[::1]:8000", true},
		{"GPU.lan:8000", "gpu.lan:8000", true},
		{":8000", ":9090", false},
		{"10.0.0.1:8000", "127.0.0.1:8000", false},
		{":0", ":0", false},
		{":8000", "8000", false},
	} {
		if sameAddress(c.a, c.b) != c.want || sameAddress(c.b, c.a) != c.want {
			t.Errorf("sameAddress(%q, %q) is not %v both ways", c.a, c.b, c.want)
		}
	}
}

func TestMetricsListenerOfItsOwnHasAnyPath(t *testing.T) {
	parse(t, good+"listen: 10.0.0.1:8000\nmetrics: {listen: \"127.0.0.1:8000\", path: /healthz}\n")
}
