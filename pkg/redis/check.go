package redis

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// Check looks whether Redis deserves to be trusted with limits and keys: that it persists, never evicts, is 6.2 or
// newer, no replica, and what the mode says it is. Each warning is a sentence with what to do; what could not be looked
// at is one too. In a Cluster all masters are asked. It is back within timeout.
func (c *Client) Check(timeout time.Duration) (warnings []string, err error) {
	to := c.client.Load()
	if to == nil {
		return nil, *c.cause.Load()
	}
	until := time.Now().Add(timeout)
	nodes := (*to).Nodes()
	addrs := make([]string, 0, len(nodes))
	for addr := range nodes {
		addrs = append(addrs, addr)
	}
	slices.Sort(addrs)
	var failed error
	for _, addr := range addrs {
		n := node{client: c, addr: addr, conn: nodes[addr], until: until}
		found, err := n.check()
		warnings = append(warnings, found...)
		if err != nil && failed == nil {
			failed = fmt.Errorf("%s: %w", addr, err)
		}
	}
	return warnings, failed
}

// node is one server that Check asks.
type node struct {
	client *Client
	addr   string
	conn   rueidis.Client
	until  time.Time
	info   map[string]string
}

func (n *node) check() (warnings []string, err error) {
	if n.info, err = n.readInfo(); err != nil {
		if !isDenied(err) {
			return nil, err
		}
		return []string{n.addr + ": the user may not run INFO: version, role, persistence and eviction could not be looked at; " +
			"allow it (ACL: +info) or look yourself"}, nil
	}
	mode := n.client.options.Mode
	clustered := n.info["redis_mode"] == "cluster"
	replica := n.info["role"] != "master"
	if replica && mode == Cluster {
		return nil, nil
	}
	warn := func(bad bool, text string, args ...any) {
		if bad {
			warnings = append(warnings, n.addr+": "+fmt.Sprintf(text, args...))
		}
	}
	warn(replica, "this is a replica, which takes no writes: name the master, or set mode: sentinel")
	warn(clustered && mode != Cluster, "this is a node of a Redis Cluster: set mode: cluster")
	warn(!clustered && mode == Cluster, "this is not a node of a Redis Cluster: leave mode: cluster out")
	warn(older(n.info["redis_version"]), "Redis %s is older than 6.2: upgrade it", n.info["redis_version"])
	policy := n.info["maxmemory_policy"]
	warn(policy != "noeviction" && n.info["maxmemory"] != "0",
		"maxmemory-policy is %s: keys and limits may be evicted; set maxmemory-policy noeviction", policy)
	return append(warnings, n.persistence()...), nil
}

func (n *node) persistence() []string {
	if n.info["aof_enabled"] != "0" {
		return nil
	}
	m, err := n.ask(n.conn.B().ConfigGet().Parameter("save").Build())
	save, mapErr := m.AsStrMap()
	switch {
	case err != nil || mapErr != nil:
		return []string{n.addr + ": appendonly is off, and whether snapshots are on could not be looked at (CONFIG GET save is forbidden): " +
			"set appendonly yes, or allow it (ACL: +config|get)"}
	case save["save"] == "":
		return []string{n.addr + ": nothing is persisted: a restart loses all keys and counts; set appendonly yes"}
	}
	return nil
}

func (n *node) readInfo() (map[string]string, error) {
	m, err := n.ask(n.conn.B().Info().Build())
	if err != nil {
		return nil, err
	}
	text, err := m.ToString()
	if err != nil {
		return nil, err
	}
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			info[name] = value
		}
	}
	return info, nil
}

func (n *node) ask(command rueidis.Completed) (rueidis.RedisMessage, error) {
	return n.client.ask(n.conn, command, time.Until(n.until))
}

func older(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, errA := strconv.Atoi(major)
	b, errB := strconv.Atoi(minor)
	return errA == nil && errB == nil && (a < 6 || a == 6 && b < 2)
}

// isDenied also takes an unknown command for a denied one: managed servers rename them.
func isDenied(err error) bool {
	text := err.Error()
	return strings.Contains(text, "NOPERM") || strings.Contains(text, "unknown command")
}
