package main

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// A command that a script calls counts as one: it is not to be told as asked for by
// the gateway.
func TestCommandsInScriptsAreToldApart(t *testing.T) {
	redis := redistest.Start(t)
	redis.Must("SET", "x", "1")
	alone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "# HELP llmproxy_decided_alone_total 9\nllmproxy_decided_alone_total 7\n")
	}))
	defer alone.Close()
	at := strings.TrimPrefix(alone.URL, "http://")
	process, err := begin(exec.Command("sleep", "60"), "", t.TempDir()+"/log")
	if err != nil {
		t.Fatal(err)
	}
	defer process.stop()
	g := &gateway{addr: at, peer: peer{start: answering(t, 200), redis: &server{addr: redis.Addr(), process: process}}, process: process}
	w, err := g.during(t.Context(), func() error {
		for range 5 {
			redis.Must("EVAL", "redis.call('GET', 'x') return redis.call('TIME')", "0")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// Beside the commands of the scripts, the one that asks for the counts.
	if r := w.redis; r.scripts != 5 || r.commands < 10 || r.commands > 12 || r.alone != 0 {
		t.Errorf("counted %+v", r)
	}
	if a, err := g.asked(t.Context()); err != nil || a.alone != 7 {
		t.Errorf("%d decided alone, %v", a.alone, err)
	}
}

// Counts that are not there must not pass for none.
func TestCountsThatAreNotThere(t *testing.T) {
	for info, want := range map[string]bool{
		"total_commands_processed:12\r\n": true,
		"total_commands_processed:12\r\ncmdstat_eval:calls=1,usec\r\ncmdstat_evalsha:calls=2,\r\n": true,
		"total_commands_processed:\r\n": false,
		"":                              false,
		"xtotal_commands_processed:12":  false,
		"total_commands_processed:12\ncmdstat_eval:calls=": false,
	} {
		scripts, commands, err := count(info)
		if (err == nil) != want || err == nil && scripts+commands != 12 {
			t.Errorf("%q: %d and %d, %v", info, scripts, commands, err)
		}
	}
}

func FuzzRedisText(f *testing.F) {
	f.Add("$3\r\nabc\r\n")
	f.Add("-ERR no\r\n")
	f.Add("$99999999999\r\n")
	f.Fuzz(func(t *testing.T, answer string) {
		text, err := readBulk(bufio.NewReader(strings.NewReader(answer)))
		if err == nil && !strings.Contains(answer, "\n"+text) {
			t.Errorf("%q is not in %q", text, answer)
		}
		if scripts, commands, err := count(answer); err == nil && scripts < 0 {
			t.Errorf("%d scripts and %d commands in %q", scripts, commands, answer)
		}
	})
}
