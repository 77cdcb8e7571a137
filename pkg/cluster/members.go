package cluster

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/redis"
)

// Gateway is one of those that share the Redis.
type Gateway struct {
	Node    string    `json:"node"`
	Host    string    `json:"host"`
	Version string    `json:"version"`
	Config  string    `json:"config_digest"` // which configuration is in force
	Started time.Time `json:"started_at"`
	Seen    time.Time `json:"seen_at"` // by Redis's clock
	// Skew is its clock minus Redis's, as far as it could tell.
	Skew time.Duration `json:"-"`
}

// bare is a Gateway without its methods.
type bare Gateway

// written is a Gateway in JSON.
type written struct {
	bare
	Skew float64 `json:"clock_skew_seconds"`
}

// MarshalJSON writes the skew in seconds.
func (g Gateway) MarshalJSON() ([]byte, error) {
	return json.Marshal(written{bare: bare(g), Skew: g.Skew.Seconds()})
}

// UnmarshalJSON is the inverse of MarshalJSON.
func (g *Gateway) UnmarshalJSON(b []byte) error {
	var w written
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*g = Gateway(w.bare)
	const most = float64(math.MaxInt64 / 2)
	g.Skew = time.Duration(max(-most, min(math.Round(w.Skew*float64(time.Second)), most)))
	return nil
}

var (
	//go:embed beat.lua
	beatLua    string
	beatScript = redis.NewScript(beatLua)
)

// beatAsk says that a gateway is there, and asks for the others.
type beatAsk struct {
	tag  string // without braces
	node string
	beat int64  // more than the one before; not negative
	self []byte // the Gateway in JSON; nil where it is enough to be counted
	gone bool   // it is shutting down: it counts no longer
}

// call asks. Its only key is `<prefix>{<tag>}:gateways`.
func (b *beatAsk) call(prefix string) redis.Call {
	gone := "0"
	if b.gone {
		gone = "1"
	}
	return redis.Call{
		Script: beatScript,
		Keys:   []string{prefix + "{" + b.tag + "}:gateways"},
		Args:   []string{b.node, strconv.FormatInt(b.beat, 10), gone, string(b.self)},
	}
}

// beatAnswer is what Redis knows.
type beatAnswer struct {
	now   int64  // µs of its clock
	runID string // of the server, another one after each start; "" when it does not tell
	// before is this gateway's beat as it was stored before; 0: there was none, or it was
	// lost.
	before int64
	// gateways are those seen in the last five seconds, this one too unless it has gone,
	// in the order of their nodes.
	gateways []Gateway
}

// read is the inverse of what the script returns. What cannot be read of what a gateway
// says about itself, as of one of another version, is left empty.
func (a *beatAnswer) read(m rueidis.RedisMessage) error {
	values, err := m.ToArray()
	if err != nil {
		return fmt.Errorf("cannot tell Redis that this gateway is there: %w", err)
	}
	*a = beatAnswer{}
	v := reading{values: values}
	a.now = v.number()
	a.runID = v.text()
	before, err := strconv.ParseInt(v.text(), 10, 64)
	if err != nil || before < 0 {
		return errAnswer
	}
	a.before = before
	for !v.failed && len(v.values) > 0 {
		node, seen, about := v.text(), v.number(), v.text()
		var g Gateway
		if json.Unmarshal([]byte(about), &g) != nil {
			g = Gateway{}
		}
		g.Node, g.Seen = node, time.UnixMilli(seen)
		a.gateways = append(a.gateways, g)
	}
	slices.SortFunc(a.gateways, func(x, y Gateway) int { return strings.Compare(x.Node, y.Node) })
	return v.end()
}

// text is the next value, which must be a string.
func (v *reading) text() string {
	s, err := v.next().ToString()
	v.failed = v.failed || err != nil
	return s
}
