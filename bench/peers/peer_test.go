package main

import (
	"slices"
	"strings"
	"testing"
)

func TestFromEnvironment(t *testing.T) {
	for _, c := range []struct {
		name    string
		environ []string
		want    []string // names
		bad     bool
	}{
		{name: "none", environ: []string{"PATH=/bin", "MY_PEER_x=y", "PEERS=a"}},
		{name: "sorted, so that runs are alike", environ: []string{"PEER_b=true", "PEER_a=true"}, want: []string{"a", "b"}},
		{name: "a dash, as env sets it", environ: []string{"PEER_my-proxy=run"}, want: []string{"my-proxy"}},
		{name: "no name", environ: []string{"PEER_=run"}, bad: true},
		{name: "no command", environ: []string{"PEER_x= "}, bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			peers, err := fromEnvironment(c.environ)
			if (err != nil) != c.bad || !slices.Equal(names(peers), c.want) {
				t.Errorf("%v, %v", names(peers), err)
			}
		})
	}
}

func names(peers []peer) []string {
	var all []string
	for _, p := range peers {
		all = append(all, p.name)
	}
	return all
}

func TestCommandFromEnvironmentKnowsItsPlace(t *testing.T) {
	peers, err := fromEnvironment([]string{`PEER_x=echo "$LISTEN $PORT $ENGINE a=b"`})
	if err != nil {
		t.Fatal(err)
	}
	cmd, err := peers[0].start(t.TempDir(), "127.0.0.1:81", "127.0.0.1:82")
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != "127.0.0.1:81 81 127.0.0.1:82 a=b" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestChoose(t *testing.T) {
	all := []peer{{name: "direct"}, {name: "a"}, {name: "b"}}
	for _, c := range []struct {
		name  string
		all   []peer
		names []string
		want  []string
		bad   bool
	}{
		{name: "all", all: all, want: []string{"direct", "a", "b"}},
		{name: "what is added cannot be told without direct", all: all, names: []string{"b"}, want: []string{"direct", "b"}},
		{name: "the order is that of the tables", all: all, names: []string{"b", "direct", "a"}, want: []string{"direct", "a", "b"}},
		{name: "a slip of the pen", all: all, names: []string{"ngnix"}, bad: true},
		{name: "two rows of one name", all: append(slices.Clone(all), peer{name: "a"}), bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			chosen, err := choose(c.all, c.names)
			if (err != nil) != c.bad || !slices.Equal(names(chosen), c.want) {
				t.Errorf("%v, %v", names(chosen), err)
			}
		})
	}
}

func TestFirstTwoCores(t *testing.T) {
	for list, want := range map[string]string{
		"0-1": "0 1", "2-5,8": "2 3", "1,3": "1 3", "0,2-3": "0 2", "0": "", "": "",
	} {
		first, second, err := firstTwo(list)
		if got := strings.TrimSpace(first + " " + second); got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v", list, got, err)
		}
	}
}
