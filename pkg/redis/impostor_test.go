package redis_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redis"
)

// impostor answers on Redis's port: as a server, a Sentinel and a Cluster of one node would, but for what spoil makes of
// an answer.
type impostor struct {
	listener net.Listener
	spoil    func(command []string, reply string) string
	spoiled  atomic.Int64 // answers that were not as they should be
	ended    atomic.Int64 // connections that were closed after one
}

func newImpostor(t testing.TB, spoil func(command []string, reply string) string) *impostor {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &impostor{listener: l, spoil: spoil}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go i.serve(conn)
		}
	}()
	return i
}

func (i *impostor) addr() string { return i.listener.Addr().String() }

func (i *impostor) serve(conn net.Conn) {
	defer conn.Close()
	r, spoiled := bufio.NewReader(conn), false
	for {
		command, err := readCommand(r)
		if err != nil {
			if spoiled {
				i.ended.Add(1)
			}
			return
		}
		good := i.reply(command)
		reply := i.spoil(command, good)
		if reply != good {
			i.spoiled.Add(1)
			spoiled = true
		}
		_, _ = io.WriteString(conn, reply) // the end is seen by reading
	}
}

func readCommand(r *bufio.Reader) ([]string, error) {
	number := func() (int, error) {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimRight(line[1:], "\r\n"))
	}
	n, err := number()
	if err != nil {
		return nil, err
	}
	words := make([]string, n)
	for i := range words {
		size, err := number()
		if err != nil {
			return nil, err
		}
		word := make([]byte, size+2)
		if _, err := io.ReadFull(r, word); err != nil {
			return nil, err
		}
		words[i] = string(word[:size])
	}
	return words, nil
}

func (i *impostor) reply(command []string) string {
	_, port, _ := net.SplitHostPort(i.addr())
	switch name(command) {
	case "HELLO":
		return "%2\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:3\r\n"
	case "PING":
		return "+PONG\r\n"
	case "EVALSHA", "EVAL":
		last := command[len(command)-1]
		return fmt.Sprintf("$%d\r\n%s\r\n", len(last), last)
	case "SUBSCRIBE", "UNSUBSCRIBE":
		var b strings.Builder
		for _, c := range command[1:] {
			fmt.Fprintf(&b, ">3\r\n+%s\r\n+%s\r\n:1\r\n", strings.ToLower(command[0]), c)
		}
		return b.String()
	case "SENTINEL SENTINELS":
		return "*0\r\n"
	case "SENTINEL GET-MASTER-ADDR-BY-NAME":
		return "*2\r\n+127.0.0.1\r\n+" + port + "\r\n"
	case "ROLE":
		return "*3\r\n+master\r\n:0\r\n*0\r\n"
	case "CLUSTER SLOTS":
		return "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n+127.0.0.1\r\n:" + port + "\r\n"
	case "CLUSTER INFO":
		return "+cluster_state:ok\r\n"
	}
	return "+OK\r\n"
}

func name(command []string) string {
	if command[0] == "SENTINEL" || command[0] == "CLUSTER" {
		return strings.ToUpper(command[0] + " " + command[1])
	}
	return command[0]
}

func (i *impostor) options(m redis.Mode) redis.Options {
	o := redis.Options{Addrs: []string{i.addr()}, Mode: m}
	if m == redis.Sentinel {
		o.Master = "mymaster"
	}
	return o
}

// Each of these took the process down.
func TestImpostorEndsNothingButItsConnection(t *testing.T) {
	const sentinel = ">3\r\n+message\r\n+sentinel\r\n+x\r\n"
	for what, test := range map[string]struct {
		mode     redis.Mode
		to, says string
		more     bool // behind the right answer, not instead
	}{
		"negative bulk":           {redis.Single, "EVALSHA", "$-7\r\n", false},
		"negative array":          {redis.Single, "EVALSHA", "*-3\r\n", false},
		"negative map":            {redis.Single, "EVALSHA", "%-5\r\n", false},
		"no memory has it":        {redis.Single, "EVALSHA", "*99999999999\r\n", false},
		"greeting of no memory":   {redis.Single, "HELLO", "%99999999999\r\n", false},
		"replies for nobody":      {redis.Single, "EVALSHA", strings.Repeat("+OK\r\n", 200), true},
		"nulls for nobody":        {redis.Single, "EVALSHA", strings.Repeat("_\r\n", 200), true},
		"boolean without an end":  {redis.Single, "EVALSHA", "#$9\a\x8e\x7f", true},
		"null without an end":     {redis.Single, "EVALSHA", "_ab", true},
		"all sorts for nobody":    {redis.Single, "EVALSHA", strings.Repeat("+PONG\r\n-ERR x\r\n:1\r\n", 50), true},
		"subscribed for nobody":   {redis.Single, "EVALSHA", ">3\r\n+subscribe\r\n+a\r\n:1\r\n", true},
		"moved nowhere":           {redis.Cluster, "EVALSHA", "-MOVED\r\n", false},
		"asked nowhere":           {redis.Cluster, "EVALSHA", "-ERR ASK 1\r\n", false},
		"role of nothing":         {redis.Sentinel, "ROLE", "*0\r\n", false},
		"master without a port":   {redis.Sentinel, "SENTINEL GET-MASTER-ADDR-BY-NAME", "*1\r\n+127.0.0.1\r\n", false},
		"subscription queued":     {redis.Sentinel, "SUBSCRIBE", "+QUEUED\r\n", false},
		"unsubscribed in error":   {redis.Sentinel, "UNSUBSCRIBE", "-LOADING\r\n-LOADING\r\n", false},
		"event of too few words":  {redis.Sentinel, "SUBSCRIBE", strings.Replace(sentinel, "sentinel", "+sentinel", 1), true},
		"switch of too few words": {redis.Sentinel, "SUBSCRIBE", strings.Replace(sentinel, "sentinel\r\n+x", "+switch-master\r\n+mymaster a 1 b", 1), true},
	} {
		t.Run(what, func(t *testing.T) {
			var honest atomic.Bool
			i := newImpostor(t, func(command []string, reply string) string {
				switch {
				case honest.Load() || name(command) != test.to:
					return reply
				case test.more:
					return reply + test.says
				}
				return test.says
			})
			var j journal
			o := i.options(test.mode)
			o.Log = j.log()
			c := open(t, o)
			eventually(t, "a connection is ended", func() bool {
				if err := says(c, "x", soon); err != nil && !errors.Is(err, redis.ErrAway) {
					t.Fatalf("got %v", err)
				}
				return i.ended.Load() > 0
			})
			if s := j.String(); strings.Count(s, "redis is away") > 1 {
				t.Errorf("the log:\n%s", s)
			}
			honest.Store(true)
			eventually(t, "it is asked again", func() bool { return says(c, "x", long) == nil })
		})
	}
}

func TestImpostorIsCalledOne(t *testing.T) {
	i := newImpostor(t, func([]string, string) string { return "HTTP/1.1 400 Bad Request\r\n\r\n" })
	var j journal
	o := i.options(redis.Single)
	o.Log = j.log()
	c := open(t, o)
	const want = "does not speak Redis's protocol"
	eventually(t, "the cause is known", func() bool {
		err := says(c, "x", soon)
		return errors.Is(err, redis.ErrAway) && strings.Contains(err.Error(), want)
	})
	eventually(t, "it is tried again", func() bool { return i.ended.Load() > 2 })
	j.check(t, 1, 0)
	if !strings.Contains(j.String(), want) {
		t.Errorf("the log: %s", &j)
	}
}

// FuzzImpostor spoils one answer: what is said is put in its place, behind it, or over it.
func FuzzImpostor(f *testing.F) {
	for _, s := range []string{"$-7\r\n", "*-3\r\n", "*99999999999\r\n", "+OK\r\n+OK\r\n", "-MOVED\r\n", "*0\r\n", ">3\r\n+subscribe\r\n+a\r\n:1\r\n", "+QUEUED\r\n", "\x00\x01\x80"} {
		for n := range byte(9) {
			f.Add(n, n, []byte(s))
		}
	}
	modes := []redis.Mode{redis.Single, redis.Sentinel, redis.Cluster}
	f.Fuzz(func(t *testing.T, how, at byte, what []byte) {
		if len(what) > 1<<10 {
			return
		}
		var n atomic.Int64
		i := newImpostor(t, func(_ []string, reply string) string {
			if n.Add(1) != int64(at%16)+1 {
				return reply
			}
			return spoilt(reply, how/3%3, what)
		})
		c := open(t, i.options(modes[how%3]))
		deadline := time.Now().Add(100 * time.Millisecond)
		for i.spoiled.Load() == 0 && time.Now().Before(deadline) {
			_ = says(c, "x", soon)
		}
		for range 3 { // what is left in the stream meets these
			if err := says(c, "x", soon); err != nil {
				_, _ = c.Do(soon, "PING")
			}
		}
		c.Close()
	})
}

func spoilt(reply string, how byte, what []byte) string {
	switch how {
	case 0:
		return string(what)
	case 1:
		return reply + string(what)
	}
	b := []byte(reply)
	for i := 0; i+1 < len(what); i += 2 {
		b[int(what[i])%len(b)] ^= what[i+1]
	}
	return string(b)
}
