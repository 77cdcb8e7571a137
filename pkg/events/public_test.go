package events

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/journal"
	"github.com/llmproxy/llmproxy/pkg/webhook"
)

// TestPublicLibrariesAccept delivers to a receiver that reads events with the
// CloudEvents project's package.
func TestPublicLibrariesAccept(t *testing.T) {
	const receiver = "../webhook/testdata/receiver/"
	if _, err := os.Stat(receiver + "node_modules/.installed"); err != nil {
		why := "scripts/test-deps.sh installs what the receiver needs"
		if os.Getenv("CI") != "" || os.Getenv("LLMPROXY_REQUIRE") != "" {
			t.Fatal(why)
		}
		t.Skip(why)
	}
	const secret = "a secret of no special form"
	cmd := exec.CommandContext(t.Context(), "node", receiver+"receiver.mjs")
	cmd.Env = append(os.Environ(), "SECRET="+secret, "FORMAT=raw")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // ends it
		_ = cmd.Wait()
	})
	var said struct {
		Address, Refused, Rejected string
		Events                     []told
	}
	lines := bufio.NewReader(out)
	hear := func() {
		line, err := lines.ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &said)
		}
		if err != nil {
			t.Fatalf("the receiver said %q: %v", line, err)
		}
	}
	hear()
	l := openTest(t, t.TempDir(), journal.Options{})
	odd := request(2)
	odd.Name, odd.Asked, odd.Seconds = "no UTF-8: \xff, and \x00", "\u2028", 0.1
	l.End(request(1))
	l.End(odd)
	s, err := webhook.New(webhook.Config{URL: said.Address, Secret: []byte(secret), Node: l.Node(), MaxEvents: 2, DeadLetter: filepath.Join(t.TempDir(), "dead")})
	if err != nil {
		t.Fatal(err)
	}
	deliverBy(t, l, s)
	hear()
	if said.Refused+said.Rejected != "" || len(said.Events) != 2 || said.Events[1].Source != "urn:llmproxy:"+l.Node() ||
		said.Events[1].Sequence != "00000000000000000002" || said.Events[1].Data.PromptTokens != 2 {
		t.Errorf("it said %+v", said)
	}
}
