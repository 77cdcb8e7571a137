//go:build !race

package redis

import "testing"

func TestAllocationsOfGuard(t *testing.T) {
	g := greeted(t)
	command, reply := []byte(wire("EVALSHA", "abc", "0", "1")), []byte("*2\r\n:1\r\n$1\r\n1\r\n")
	if n := testing.AllocsPerRun(1000, func() {
		if g.commands(command) != nil || g.replies(reply) != nil {
			t.Fatal(g.bad)
		}
	}); n != 0 {
		t.Errorf("%v allocations a call", n)
	}
}
