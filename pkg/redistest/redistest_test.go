package redistest_test

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// eventually waits until the condition holds, for at most twenty seconds.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline:
			t.Fatal("never happened: " + what)
		case <-tick.C:
		}
	}
}

func TestServerComesBackWithItsPortAndFiles(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always")
	s.Must("SET", "a", "1")
	addr := s.Addr()
	s.Kill()
	s.Kill() // of one that is gone
	if _, err := s.Command("PING"); err == nil {
		t.Error("a killed server answers")
	}
	s.Restart()
	if got := s.Must("GET", "a"); got != "1" || s.Addr() != addr {
		t.Errorf("after the restart: %q at %s, was at %s", got, s.Addr(), addr)
	}
}

func TestServerKeepsNothingUnlessTold(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Must("SET", "a", "1")
	s.Restart()
	if got := s.Must("DBSIZE"); got != "0" {
		t.Errorf("%s keys after the restart", got)
	}
}

func TestStoppedServerDoesWhatItWasSentWhenItContinues(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	conn, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.Stop()
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 7)
	if n, err := conn.Read(answer); err == nil {
		t.Fatalf("a stopped server says %q", answer[:n])
	}
	s.Continue()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(answer); err != nil || string(answer) != "+PONG\r\n" {
		t.Errorf("it then says %q, %v", answer, err)
	}
}

func TestStoppedServerCanBeKilled(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	s.Stop()
	s.Restart()
	s.Must("PING")
}

func TestServersEndWithTheTest(t *testing.T) {
	t.Parallel()
	var addrs []string
	t.Run("inner", func(t *testing.T) {
		s := redistest.Start(t)
		frozen := s.Replica(t)
		frozen.Stop()
		addrs = []string{s.Addr(), frozen.Addr(), redistest.NewProxy(t, s.Addr()).Addr()}
	})
	for _, a := range addrs {
		if c, err := net.Dial("tcp", a); err == nil {
			c.Close()
			t.Errorf("%s still listens", a)
		}
	}
}

func TestCommandAnswersAsText(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--requirepass", "secret")
	s.Must("SET", "bytes", "a\r\nb\x00\n")
	s.Must("RPUSH", "list", "1", "2", "3")
	for _, c := range []struct {
		command, want string
	}{
		{"GET bytes", "a\r\nb\x00\n"},
		{"LRANGE list 0 -1", "1\n2\n3"},
		{"LLEN list", "3"},
		{"GET none", ""},
		{"KEYS none", ""},
	} {
		if got := s.Must(strings.Fields(c.command)...); got != c.want {
			t.Errorf("%s: %q, want %q", c.command, got, c.want)
		}
	}
	if got, err := s.Command("GET", "list"); err == nil || !strings.HasPrefix(err.Error(), "WRONGTYPE ") {
		t.Errorf("an error reply: %q, %v", got, err)
	}
}

func TestReplicaHasAllWhenItIsMade(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t, "--requirepass", "secret")
	s.Must("SET", "a", "1")
	if got := s.Replica(t).Must("GET", "a"); got != "1" {
		t.Errorf("the replica has %q", got)
	}
}

func TestReplicaBehindProxyLags(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	p := redistest.NewProxy(t, s.Addr())
	host, port, _ := net.SplitHostPort(p.Addr())
	r := s.Replica(t, "--replicaof", host, port)
	s.Must("SET", "a", "1")
	eventually(t, "a has come", func() bool { return r.Must("GET", "a") == "1" })
	p.SetDelay(time.Hour)
	s.Must("SET", "b", "1")
	s.Kill()
	p.Cut()
	r.Must("REPLICAOF", "NO", "ONE")
	if got := r.Must("MGET", "a", "b"); got != "1\n" {
		t.Errorf("the replica that became the master has %q", got)
	}
}

func TestSentinelsFailOver(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	r := s.Replica(t)
	addrs := redistest.StartSentinels(t, s, 3)
	if len(addrs) != 3 {
		t.Fatalf("sentinels at %q", addrs)
	}
	s.Kill()
	eventually(t, "the replica is the master", func() bool {
		return strings.HasPrefix(r.Must("ROLE"), "master\n")
	})
}

func TestClusterFailsOver(t *testing.T) {
	t.Parallel()
	n := redistest.StartCluster(t, 3, 1)
	if got := n.Addrs(); len(got) != 6 || len(slices.Compact(slices.Sorted(slices.Values(got)))) != 6 {
		t.Fatalf("nodes at %q", got)
	}
	masters := map[*redistest.Server]bool{}
	for _, key := range []string{"a", "b", "c", "{a}x"} {
		m := n.Master(key)
		m.Must("SET", key, "1") // another node would answer MOVED
		masters[m] = true
	}
	if len(masters) != 3 {
		t.Errorf("three keys of three nodes are on %d", len(masters))
	}
	old := n.Master("a")
	old.Stop()
	heir := n.Master("a")
	if heir == old {
		t.Fatal("a stopped node is the master")
	}
	if got := heir.Must("GET", "a"); got != "1" {
		t.Errorf("its replica has %q", got)
	}
	old.Continue()
	eventually(t, "the old master is a replica", func() bool {
		return strings.HasPrefix(old.Must("ROLE"), "slave\n")
	})
}
