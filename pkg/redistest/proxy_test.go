package redistest_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// dial connects until the test ends, for ten seconds.
func dial(t *testing.T, addr string) (net.Conn, *bufio.Reader) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c, bufio.NewReader(c)
}

// pings sends so many and returns how long the answers took.
func pings(t *testing.T, c net.Conn, in *bufio.Reader, n int) time.Duration {
	t.Helper()
	began := time.Now()
	go func() {
		for i := range n {
			fmt.Fprintf(c, "ECHO %d\r\n", i) // the reader sees what did not arrive
		}
	}()
	for i := range n {
		want := fmt.Sprintf("$%d\r\n%d\r\n", len(fmt.Sprint(i)), i)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(in, got); err != nil || string(got) != want {
			t.Fatalf("answer %d is %q: %v", i, got, err)
		}
	}
	return time.Since(began)
}

func TestProxyDelaysEachDirectionAndLetsAsMuchThrough(t *testing.T) {
	t.Parallel()
	p := redistest.NewProxy(t, redistest.Start(t).Addr())
	c, in := dial(t, p.Addr())
	pings(t, c, in, 10)
	p.SetDelay(50 * time.Millisecond)
	if d := pings(t, c, in, 1); d < 100*time.Millisecond {
		t.Errorf("an answer after %v", d)
	}
	// One after the other they would take five minutes.
	if d := pings(t, c, in, 3000); d > 5*time.Second {
		t.Errorf("3000 answers after %v", d)
	}
	p.SetDelay(0)
	if d := pings(t, c, in, 1); d > 90*time.Millisecond {
		t.Errorf("an answer after %v without a delay", d)
	}
}

func TestProxyIsCutAndMended(t *testing.T) {
	t.Parallel()
	p := redistest.NewProxy(t, redistest.Start(t).Addr())
	c, in := dial(t, p.Addr())
	pings(t, c, in, 1)
	addr := p.Addr()
	p.Cut()
	p.Cut()
	if _, err := in.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a connection that was cut: %v", err)
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("a new connection is not refused")
	}
	p.Mend()
	p.Mend()
	c, in = dial(t, addr)
	pings(t, c, in, 1)
}

func TestProxyMovesToAnotherServer(t *testing.T) {
	t.Parallel()
	s, other := redistest.Start(t), redistest.Start(t)
	p := redistest.NewProxy(t, s.Addr())
	other.Must("SET", "who", "other")
	c, in := dial(t, p.Addr())
	pings(t, c, in, 1)
	p.Move(other.Addr())
	pings(t, c, in, 1) // stays
	c, in = dial(t, p.Addr())
	fmt.Fprint(c, "GET who\r\n")
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if who, err := in.ReadString('\n'); who != "other\r\n" {
		t.Errorf("a new connection is to %q: %v", who, err)
	}
}

func TestProxyPassesOnThatTheServerDied(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	c, in := dial(t, redistest.NewProxy(t, s.Addr()).Addr())
	pings(t, c, in, 1)
	s.Kill()
	if b, err := in.ReadByte(); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("the client reads %q, %v", b, err)
	}
}
