package main

import (
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const worker = `# callgrind format
version: 1
pid: 7
thread: 3
positions: line
events: Ir
summary: 1060

ob=(1) /tmp/llmproxy
fl=(1) ???
fn=(1) main.serve
0 10
cfn=(2) main.parse
calls=4 0
0 900
0 5

fn=(2)
+3 20
* 1

fn=(3) main.serve'2
0 7

fn=(4) runtime.typeAssert
0 500

totals: 1060
`

const sysmon = `thread: 2
fn=(1) runtime.sysmon
0 4000
fn=(2) runtime.nanotime1
0 70
`

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       map[string]uint64
	}{
		{"the cost of a call counts twice; a recursion is another function", worker, map[string]uint64{"main.serve": 22, "main.parse": 21, "runtime.typeAssert": 500}},
		{"a thread that slept", "thread: 4\nsummary: 0\n\n\ntotals: 0\n", map[string]uint64{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := parse(strings.NewReader(c.text))
			if err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestParseRefusesCostsOfNothing(t *testing.T) {
	for _, text := range []string{"0 10\n", "fn=(1) main.main\n0 many\n", "fn=(1)\n0 10\n"} {
		if got, err := parse(strings.NewReader(text)); err == nil {
			t.Errorf("%q gave %v", text, got)
		}
	}
}

func TestProfileLeavesOutWhatIsNoRequest(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for name, text := range map[string]string{"out.1-02": sysmon, "out.1-03": worker} {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	p, err := readProfile(names)
	if err != nil {
		t.Fatal(err)
	}
	if p.total != 43 || len(p.functions) != 2 {
		t.Errorf("got %d instructions in %v, want 43 of main.serve and main.parse", p.total, p.functions)
	}
}
