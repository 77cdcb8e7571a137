package redis

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// wire is a command as rueidis writes it.
func wire(words ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	return b.String()
}

const helloReply = "%1\r\n$5\r\nproto\r\n:3\r\n"

// greeted has been written HELLO and the commands, and has read the answer to the first.
func greeted(t testing.TB, commands ...string) *guard {
	t.Helper()
	g := &guard{}
	if err := errors.Join(g.commands([]byte(wire("HELLO", "3"))), g.replies([]byte(helloReply))); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		if err := g.commands([]byte(wire(strings.Fields(c)...))); err != nil {
			t.Fatal(err)
		}
	}
	return g
}

func TestGuardPassesWhatRedisSays(t *testing.T) {
	nested := strings.Repeat("*1\r\n", mostDepth-1) + "*0\r\n"
	for name, test := range map[string]struct{ commands, replies []string }{
		"scalars": {
			[]string{"A", "B", "C", "D", "E", "F", "G", "H", "I"},
			[]string{"+\r\n", "-ERR no\r\n", ":-9223372036854775808\r\n", ",1.5\r\n", "(3492890328409238509324850943850943825024385\r\n", "#t\r\n", "_\r\n", "$0\r\n\r\n", "=8\r\ntxt:a\r\nb\r\n"},
		},
		"nulls":      {[]string{"A", "B", "C"}, []string{"$-1\r\n", "*-1\r\n", "*2\r\n$-1\r\n_\r\n"}},
		"aggregates": {[]string{"A", "B", "C", "D", "E"}, []string{"*0\r\n", "%0\r\n", "~2\r\n:1\r\n$1\r\n\n\r\n", "%1\r\n+a\r\n*1\r\n%1\r\n:1\r\n:2\r\n", nested}},
		"pipelined":  {[]string{"A", "B"}, []string{"+OK\r\n+OK\r\n"}},
		"redirected": {[]string{"A", "B", "C"}, []string{"-MOVED 1 127.0.0.1:1\r\n", "-ASK 1 :1\r\n", "-ERR at rest\r\n"}},
		"watched by sentinels": {
			[]string{"UNSUBSCRIBE a b", "PING", "SENTINEL GET-MASTER-ADDR-BY-NAME m", "SUBSCRIBE a b", "ROLE", "PING"},
			[]string{
				">3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n>3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n+PONG\r\n", "*2\r\n+::1\r\n+1\r\n",
				">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", event("+sentinel", "sentinel a b 1 @ m ::1 1"), ">3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n",
				"*1\r\n+master\r\n", event("+switch-master", "m a 1 b 2"), "-NOPERM no\r\n", event("+reboot", "master m a 1"),
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			all := []byte(strings.Join(test.replies, ""))
			for cut := range all {
				g := greeted(t, test.commands...)
				if err := errors.Join(g.replies(all[:cut]), g.replies(all[cut:])); err != nil {
					t.Fatalf("cut at %d: %v", cut, err)
				}
				if g.answered != g.asked || len(g.awaited) != 0 || g.in.place != atType || g.in.depth != 0 {
					t.Fatalf("cut at %d: %d of %d answered, %v awaited", cut, g.answered, g.asked, g.awaited)
				}
			}
		})
	}
}

func event(channel, text string) string {
	return ">" + wire("message", channel, text)[1:]
}

func TestGuardEndsWhatRedisNeverSays(t *testing.T) {
	for name, test := range map[string]struct{ command, reply, want string }{
		"http":                    {"A", "HTTP/1.1 400 Bad Request\r\n", "type 'H'"},
		"negative bulk":           {"A", "$-7\r\n", "length of -7"},
		"negative array":          {"A", "*-3\r\n", "length of -3"},
		"negative map":            {"A", "%-1\r\n", "length of -1"},
		"negative set":            {"A", "~-1\r\n", "length of -1"},
		"huge array":              {"A", "*99999999999\r\n", "elements"},
		"huge map":                {"A", "%600000\r\n", "elements"},
		"many arrays":             {"A", "*3\r\n*600000\r\n" + strings.Repeat("_\r\n", 600000) + "*600000\r\n", "elements"},
		"number too long":         {"A", "*9999999999999999999\r\n", "no number"},
		"huge bulk":               {"A", "$67108865\r\n", "bytes"},
		"huge bulks":              {"A", "*2\r\n$1\r\na\r\n$67108864\r\n", "bytes"},
		"endless line":            {"A", "+" + strings.Repeat("a", mostLine+1), "line of more"},
		"open length":             {"A", "$?\r\n", "no number"},
		"no length":               {"A", "$\r\n", "no number"},
		"only a sign":             {"A", "*-\r\n", "no number"},
		"no return":               {"A", "+OK\n", "CRLF"},
		"no newline":              {"A", "+OK\rX", "CRLF"},
		"bulk longer than said":   {"A", "$1\r\nab\r\n", "CRLF"},
		"null with a text":        {"A", "_a", "after '_'"},
		"bool of two":             {"A", "#tt", "after '#'"},
		"bool without":            {"A", "#\r\n", "after '#'"},
		"attribute":               {"A", "|1\r\n+a\r\n+b\r\n+c\r\n", "type '|'"},
		"blob error":              {"A", "!5\r\nMOVED\r\n", "type '!'"},
		"too deep":                {"A", strings.Repeat("*1\r\n", mostDepth+1), "deep"},
		"twice":                   {"A", "+OK\r\n+OK\r\n", "nobody asked"},
		"push":                    {"A", ">2\r\n+invalidate\r\n*0\r\n", "push that nobody"},
		"empty push":              {"A", ">0\r\n", "push that nobody"},
		"push inside":             {"A", "*1\r\n>1\r\n+a\r\n", "push inside"},
		"subscription":            {"A", ">3\r\n+subscribe\r\n+a\r\n:1\r\n", "push that nobody"},
		"event":                   {"A", event("+sentinel", "a b c d"), "event"},
		"moved nowhere":           {"A", "-MOVED\r\n", "fit"},
		"asked nowhere":           {"A", "-ASK 1\r\n", "fit"},
		"moved behind an ERR":     {"A", "-ERR MOVED 1\r\n", "fit"},
		"subscribed by a reply":   {"SUBSCRIBE a", "+QUEUED\r\n", "fit"},
		"subscribed by an error":  {"SUBSCRIBE a", "-NOPERM no\r\n", "fit"},
		"subscribed twice":        {"SUBSCRIBE a", strings.Repeat(">3\r\n+subscribe\r\n+a\r\n:1\r\n", 2), "push that nobody"},
		"unsubscribed instead":    {"SUBSCRIBE a", ">3\r\n+unsubscribe\r\n+a\r\n:1\r\n", "push that nobody"},
		"event of few words":      {"SUBSCRIBE a", ">3\r\n+subscribe\r\n+a\r\n:1\r\n" + event("+sentinel", "a b c"), "event"},
		"switch to nobody":        {"SUBSCRIBE a", ">3\r\n+subscribe\r\n+a\r\n:1\r\n" + event("+switch-master", "m a 1 b"), "event"},
		"role of nothing":         {"ROLE", "*0\r\n", "fit"},
		"master without a port":   {"SENTINEL GET-MASTER-ADDR-BY-NAME m", "*1\r\n+a\r\n", "fit"},
		"ping after unsubscribed": {"UNSUBSCRIBE", "-ERR no\r\n", "fit"},
	} {
		t.Run(name, func(t *testing.T) {
			g := greeted(t, test.command)
			err := g.replies([]byte(test.reply))
			if !errors.Is(err, errForeign) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v", err)
			}
			if again := g.replies([]byte("+OK\r\n")); !errors.Is(again, errForeign) {
				t.Errorf("it goes on: %v", again)
			}
		})
	}
}

// The PING behind an UNSUBSCRIBE is answered by PONG; of any other, an error is as good.
func TestGuardPongOfUnsubscribe(t *testing.T) {
	for name, test := range map[string]struct {
		commands []string
		ok       bool
	}{"behind": {[]string{"UNSUBSCRIBE a", "PING"}, false}, "alone": {[]string{"UNSUBSCRIBE a", "PING", "PING"}, true}} {
		g := greeted(t, test.commands...)
		reply := ">3\r\n+unsubscribe\r\n+a\r\n:0\r\n"
		if test.ok {
			reply += "+PONG\r\n"
		}
		if err := g.replies([]byte(reply + "-NOPERM no\r\n")); (err == nil) != test.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// rueidis opens a second connection for subscriptions to a server without RESP3, in which a push is an array.
func TestGuardNeedsRESP3OfSentinels(t *testing.T) {
	if err := new(guard).commands([]byte(wire("HELLO", "2"))); !errors.Is(err, errOld) {
		t.Errorf("a connection in RESP2: %v", err)
	}
	var g guard
	_ = g.commands([]byte(wire("HELLO", "3")))
	_ = g.replies([]byte("-ERR unknown command 'HELLO'\r\n"))
	if err := g.commands([]byte(wire("GET", "k"))); err != nil {
		t.Errorf("a server without HELLO: %v", err)
	}
	if err := g.commands([]byte(wire("SENTINEL", "SENTINELS", "m"))); !errors.Is(err, errOld) {
		t.Errorf("a Sentinel without HELLO: %v", err)
	}
}

func TestGuardCountsCommandsInPieces(t *testing.T) {
	for step := 1; step < 40; step++ {
		g := greeted(t)
		all := []byte(strings.Repeat(wire("EVALSHA", "abc", "0", "")+wire("PING")+wire("ROLE"), 3))
		for len(all) > 0 {
			n := min(step, len(all))
			if err := g.commands(all[:n]); err != nil {
				t.Fatal(err)
			}
			all = all[n:]
		}
		if g.asked != 10 || len(g.awaited) != 3 {
			t.Fatalf("in steps of %d: %d asked, %d awaited", step, g.asked, len(g.awaited))
		}
	}
}

// FuzzGuard holds one reading of a stream against those of it in two pieces.
func FuzzGuard(f *testing.F) {
	f.Add(byte(3), []byte("+OK\r\n$3\r\nabc\r\n*2\r\n:1\r\n_\r\n"))
	f.Add(byte(1), []byte(strings.Repeat("*1\r\n", 9)))
	f.Add(byte(0), []byte(">3\r\n+subscribe\r\n+a\r\n:1\r\n"+event("+switch-master", "m a 1 b 2")))
	f.Add(byte(2), []byte("-MOVED 1 a:1\r\n%1\r\n=5\r\ntxt:a\r\n#f\r\n~1\r\n(1\r\n"))
	f.Fuzz(func(t *testing.T, asked byte, p []byte) {
		if len(p) > 300 {
			return
		}
		one := func() *guard {
			g := greeted(t, "SUBSCRIBE a", "ROLE")
			for range asked {
				_ = g.commands([]byte(wire("PING")))
			}
			return g
		}
		whole := one()
		want := fmt.Sprint(whole.replies(p))
		if whole.answered > whole.asked {
			t.Fatalf("%d answers to %d commands", whole.answered, whole.asked)
		}
		for cut := range p {
			g := one()
			_ = g.replies(p[:cut])
			if got := fmt.Sprint(g.replies(p[cut:])); got != want || g.answered != whole.answered {
				t.Fatalf("cut at %d: %s, %d answered; whole: %s, %d", cut, got, g.answered, want, whole.answered)
			}
		}
	})
}

func BenchmarkGuard(b *testing.B) {
	g := greeted(b)
	command := []byte(wire("EVALSHA", strings.Repeat("0", 40), "1", "llmproxy:{0123456789abcdef}:b", "1", "60000000", "1000", "0", "1790000000000000", "a.1"))
	reply := []byte("*4\r\n:1\r\n$1\r\n1\r\n:0\r\n:0\r\n")
	b.SetBytes(int64(len(command) + len(reply)))
	b.ReportAllocs()
	for b.Loop() {
		if err := g.commands(command); err != nil {
			b.Fatal(err)
		}
		if err := g.replies(reply); err != nil {
			b.Fatal(err)
		}
	}
}
