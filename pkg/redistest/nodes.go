package redistest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// slots is how many there are in a Redis Cluster.
const slots = 16384

// Nodes are the servers of a Redis Cluster.
type Nodes struct {
	t   testing.TB
	all []*Server
}

// StartCluster runs a Redis Cluster of so many masters, each with so many replicas
// (3, 1: six servers), and returns when all of them agree that it is well and the
// replicas are in sync. A master that does not answer for a second is failed over.
func StartCluster(t testing.TB, masters, replicas int) *Nodes {
	t.Helper()
	n := &Nodes{t: t}
	for i := range masters * (1 + replicas) {
		s := Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "1000")
		s.Must("CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i+1))
		for _, other := range n.all {
			s.Must("CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(other.port))
		}
		if i < masters {
			s.Must("CLUSTER", "ADDSLOTSRANGE", strconv.Itoa(i*slots/masters), strconv.Itoa((i+1)*slots/masters-1))
		}
		n.all = append(n.all, s)
	}
	for i, s := range n.all[masters:] {
		id := n.all[i%masters].Must("CLUSTER", "MYID")
		eventually(t, "a replica learns of its master", func() bool {
			_, err := s.Command("CLUSTER", "REPLICATE", id)
			return err == nil
		})
	}
	for _, s := range n.all {
		eventually(t, "the cluster is well", func() bool { return s.agrees(masters, masters*replicas) })
	}
	for _, s := range n.all[masters:] {
		eventually(t, "the replica is in sync", s.inSync)
	}
	return n
}

// agrees reports whether a node sees the whole cluster, and sees it well.
func (s *Server) agrees(masters, replicas int) bool {
	info, err1 := s.Command("CLUSTER", "INFO")
	nodes, err2 := s.Command("CLUSTER", "NODES")
	if err1 != nil || err2 != nil || field(info, "cluster_state") != "ok" {
		return false
	}
	of := map[string]int{}
	for line := range strings.Lines(nodes) {
		of[strings.TrimPrefix(roles(line), "myself,")]++
	}
	return of["master"] == masters && of["slave"] == replicas && len(of) <= 2
}

// roles are the flags of a line of CLUSTER NODES.
func roles(line string) string {
	if f := strings.Fields(line); len(f) > 2 {
		return f[2]
	}
	return ""
}

// Addrs are the addresses of all nodes, masters first as they were at the start.
func (n *Nodes) Addrs() []string {
	var addrs []string
	for _, s := range n.all {
		addrs = append(addrs, s.Addr())
	}
	return addrs
}

// All are the nodes, in the order of Addrs.
func (n *Nodes) All() []*Server { return slices.Clone(n.all) }

// Master is the node that answers and holds the key's slot. When there is none,
// because the last one was lost, it waits for a replica to take its place.
func (n *Nodes) Master(key string) *Server {
	n.t.Helper()
	var master *Server
	eventually(n.t, fmt.Sprintf("a master of %q answers", key), func() bool {
		for _, s := range n.all {
			if s.serves(key) {
				master = s
				return true
			}
		}
		return false
	})
	return master
}

// serves reports whether a node takes itself for the master of the key's slot.
func (s *Server) serves(key string) bool {
	slot, err1 := ask(s.Addr(), s.password, time.Second/4, []string{"CLUSTER", "KEYSLOT", key})
	nodes, err2 := ask(s.Addr(), s.password, time.Second/4, []string{"CLUSTER", "NODES"})
	at, err3 := strconv.Atoi(slot)
	if err1 != nil || err2 != nil || err3 != nil {
		return false
	}
	for line := range strings.Lines(nodes) {
		// id, address, roles, master, two times, epoch, link; then what it holds.
		if f := strings.Fields(line); len(f) > 8 && roles(line) == "myself,master" {
			return slices.ContainsFunc(f[8:], func(r string) bool { return covers(r, at) })
		}
	}
	return false
}

// covers reports whether a range as "5" or "0-5461" has the slot in it.
func covers(r string, slot int) bool {
	from, to, isRange := strings.Cut(r, "-")
	if !isRange {
		to = from
	}
	lo, err1 := strconv.Atoi(from)
	hi, err2 := strconv.Atoi(to)
	return err1 == nil && err2 == nil && lo <= slot && slot <= hi
}
