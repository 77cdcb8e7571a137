package main

import (
	"runtime"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
)

// A measure that the gateway answers otherwise than expected would count the
// instructions of something else.
func TestMeasuresDoWhatTheySay(t *testing.T) {
	for _, in := range modes {
		e := &ends{mode: in, hurry: true}
		if err := e.listen(); err != nil {
			t.Fatal(err)
		}
		config, err := configure(in, "127.0.0.1:0", e.listener.Addr().String(), e.billingAddr(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		g := apptest.Start(t, config)
		e.gateway = &gateway{addr: g.Addr}
		t.Cleanup(e.close)
		if err := e.connect(); err != nil {
			t.Fatal(err)
		}
		for _, m := range measures {
			if m.mode == in {
				t.Run(m.name, func(t *testing.T) { try(t, &m, e) })
			}
		}
	}
}

func try(t *testing.T, m *measure, e *ends) {
	if m.name == "wrong-key" && runtime.GOOS != "linux" {
		t.Skip("127.0.0.1 is the only address")
	}
	if m.begin != nil {
		if err := m.begin(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.steps(e, 3); err != nil {
		t.Fatal(err)
	}
	if m.end != nil {
		if err := m.end(e); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSizesAreThoseThatTheTextsTell(t *testing.T) {
	for _, c := range []struct {
		name        string
		bytes       []byte
		least, most int
	}{
		{"request", chat("chat", false), 1050, 1150},
		{"answer", []byte(answer), 580, 620},
		{"event", chunk(event), 235, 255},
	} {
		if n := len(c.bytes); n < c.least || n > c.most {
			t.Errorf("the %s has %d bytes, want %d to %d", c.name, n, c.least, c.most)
		}
	}
}
