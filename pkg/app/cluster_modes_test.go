package app_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/llmproxy/llmproxy/pkg/apptest"
	"github.com/llmproxy/llmproxy/pkg/redistest"
)

// TestClusterSentinelFailsOver: a gateway that missed which server is the master now
// asks the old one until it is started anew.
func TestClusterSentinelFailsOver(t *testing.T) {
	together(t)
	master := redistest.Start(t)
	heir := master.Replica(t)
	s := startCluster(t, clusterPlan{
		at: fmt.Sprintf("addr: %q, mode: sentinel, master: mymaster", strings.Join(redistest.StartSentinels(t, master, 3), ", ")),
	})
	s.redis = master
	clusterFault{
		begin: func(s *clusterSite) { s.redis.Kill() },
		end: func(s *clusterSite) {
			apptest.Eventually(t, "the replica is the master", func() bool { return strings.HasPrefix(heir.Must("ROLE"), "master\n") })
			s.redis = heir
		},
		over: clusterShare,
	}.strike(s)
}

// TestClusterNodesFailOver: of a Redis Cluster one master in three is lost, and with
// it a third of the keys, until its replica takes its place.
func TestClusterNodesFailOver(t *testing.T) {
	together(t)
	nodes := redistest.StartCluster(t, 3, 1)
	s := startCluster(t, clusterPlan{at: fmt.Sprintf("addr: %q, mode: cluster", strings.Join(nodes.Addrs(), ", "))})
	s.nodes = nodes
	of := func(s *clusterSite) *redistest.Server { return nodes.Master(clusterPrefix + "{" + s.hot.ID + "}:b") }
	clusterFault{
		begin: func(s *clusterSite) { of(s).Kill() },
		end:   func(s *clusterSite) { of(s) },
		over:  2 * clusterShare, // gateways find the new master up to a second apart
	}.strike(s)
}
