package admin

import (
	"net/http"
	"time"

	"github.com/llmproxy/llmproxy/pkg/cluster"
	"github.com/llmproxy/llmproxy/pkg/openai"
)

// Cluster is what GET /admin/cluster answers.
type Cluster struct {
	// Node is this gateway's.
	Node string `json:"node"`
	// Gateways are those that Redis knew of when it was last heard, in the order in
	// which they take their shares when it cannot be asked; this one is at Place.
	Gateways []cluster.Gateway `json:"gateways"`
	Place    int               `json:"place"`
	// Configs is how many different configurations they have: 1 but for a rollout.
	Configs int `json:"configs"`
	// Redis is null for a gateway that shares nothing.
	Redis *Redis `json:"redis"`
	// Keys is null when the keys are in a file.
	Keys *SharedKeys `json:"keys"`
}

// Redis is the state of the store that limits are counted in.
type Redis struct {
	Place          string  `json:"place"`
	State          string  `json:"state"` // up, away, or partly: some nodes of a Redis Cluster are away
	LatencySeconds float64 `json:"latency_seconds"`
	Commands       int64   `json:"commands"`
	Errors         int64   `json:"errors"`
	DecidedAlone   int64   `json:"decided_alone"` // decisions without it, of which a request may need two
	Leases         int     `json:"leases"`        // requests under way at this gateway
}

// SharedKeys is how far the keys in Redis are known.
type SharedKeys struct {
	Place    string     `json:"place"`
	Source   string     `json:"source"` // redis, snapshot or none
	Complete bool       `json:"complete"`
	Lost     bool       `json:"lost"`
	Foreign  bool       `json:"foreign"`
	Version  int64      `json:"version"`
	SyncedAt *time.Time `json:"synced_at"` // null: never
	Error    string     `json:"error"`
}

func (a *API) showCluster(c *call) *openai.Error { return c.write(http.StatusOK, a.o.Cluster()) }
