package redistest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// StartSentinels runs n sentinels that watch over the master and its replicas
// under the name "mymaster", and returns their addresses when all of them know
// each other and the replicas. A master that does not answer for a second is
// failed over, when most of them agree.
func StartSentinels(t testing.TB, master *Server, n int) (addrs []string) {
	t.Helper()
	var all []*Server
	for range n {
		s := start(t, func(dir string, port int) []string {
			file := filepath.Join(dir, "sentinel.conf") // which a sentinel rewrites
			writeFile(t, file, sentinelFile(port, master, n/2+1))
			return []string{file, "--sentinel"}
		})
		all, addrs = append(all, s), append(addrs, s.Addr())
	}
	replicas := field(master.Must("INFO", "replication"), "connected_slaves")
	for _, s := range all {
		eventually(t, "the sentinels know each other and the replicas", func() bool {
			seen, err := s.Command("SENTINEL", "MASTER", "mymaster")
			return err == nil && item(seen, "flags") == "master" &&
				item(seen, "num-other-sentinels") == strconv.Itoa(n-1) && item(seen, "num-slaves") == replicas
		})
	}
	return addrs
}

func sentinelFile(port int, master *Server, quorum int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "port %d\nbind 127.0.0.1\n", port)
	fmt.Fprintf(&b, "sentinel monitor mymaster 127.0.0.1 %d %d\n", master.port, quorum)
	b.WriteString("sentinel down-after-milliseconds mymaster 1000\nsentinel failover-timeout mymaster 3000\n")
	if master.password != "" {
		fmt.Fprintf(&b, "sentinel auth-pass mymaster %s\n", master.password)
	}
	return b.String()
}

// item is what follows a name in a list of names and values.
func item(list, name string) string {
	lines := strings.Split(list, "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		if lines[i] == name {
			return lines[i+1]
		}
	}
	return ""
}

func writeFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
