package app_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/mockvllm"
)

// A stream that came out longer than it was reserved for left the rest of its quota to
// others until it ended: all of them together spent it many times.
func TestEstimatesGrowWithTheStream(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{StepBase: time.Millisecond})
	g := apptest.Start(t, limitConfig(t, "", ", total_quota: 1000"), e)
	k := limitKeyOf(g, 0)
	c := dialRaw(t, g.Addr)
	c.send(k.request("POST", chatPath, fmt.Sprintf(limitChat, `"stream":true,"mock_tokens":100000`)))
	line, err := c.br.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 200") {
		t.Fatalf("%q %v", line, err)
	}
	if a := k.say("POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":4`)); a.status != 200 {
		t.Fatalf("beside a stream that has used little: %d %s", a.status, a.body)
	}
	apptest.Eventually(t, "the stream holds the quota", func() bool {
		for range 100 {
			if _, err := c.br.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		return k.use(t).Quota.Reserved >= 1000
	})
	a := k.say("POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":4`))
	if r := a.refusal(t); a.status != 429 || r.Param != "total_quota" {
		t.Errorf("beside a stream that has used it all: %d %s", a.status, a.body)
	}
	c.Close()
	apptest.Eventually(t, "the stream has ended", func() bool { return k.use(t).InFlight == 0 })
	if u := k.use(t); u.Quota.Reserved != 0 || u.Quota.Used < 1000 {
		t.Errorf("afterwards: %+v", u)
	}
}

// evil is a chat with what looks like a picture within a picture, which was taken off
// the length of the prompt twice and made it negative.
func evil(fields string) string {
	picture := strings.Repeat("y", 100) + ";base64," + strings.Repeat("A", 60000)
	return fmt.Sprintf(limitChat, `"x":{"data":"`+picture+`"},`+fields)
}

// A prompt of less than nothing passed a limit that was in debt.
func TestEstimatesAreNotNegativeInDebt(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{})
	g := apptest.Start(t, limitConfig(t, "", ", tokens_per_minute: 100"), e)
	k := limitKeyOf(g, 0)
	if a := k.say("POST", chatPath, fmt.Sprintf(limitChat, `"max_tokens":1000`)); a.status != 200 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	for range 5 {
		a := k.say("POST", chatPath, evil(`"max_tokens":90`))
		if r := a.refusal(t); a.status != 429 || r.Param != "tokens_per_minute" {
			t.Errorf("%d %s", a.status, a.body)
		}
	}
	if n := len(posts(e)); n != 1 {
		t.Errorf("the engine was asked %d times", n)
	}
}

// A stream with such a prompt, when it was left, was billed as less than nothing, and
// its quota had more left than before.
func TestEstimatesOfWhatWasLeftAreNotNegative(t *testing.T) {
	leavesNothing(t)
	e := apptest.StartEngine(t, mockvllm.Options{StepBase: time.Millisecond})
	g := apptest.Start(t, limitConfig(t, "", ", total_quota: 1000000"), e)
	k := limitKeyOf(g, 0)
	before := int64(0)
	for range 3 {
		c := dialRaw(t, g.Addr)
		c.send(k.request("POST", chatPath, evil(`"max_tokens":100000,"stream":true`)))
		for line := ""; !strings.HasPrefix(line, "data:"); {
			var err error
			if line, err = c.br.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
		}
		c.Close()
		apptest.Eventually(t, "the stream has ended", func() bool { return k.use(t).InFlight == 0 })
		u := k.use(t)
		if u.Quota.Used < before+15000 || u.Quota.Reserved != 0 {
			t.Errorf("%+v, after %d", u.Quota, before)
		}
		before = u.Quota.Used
	}
}
