package cluster

import (
	_ "embed"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

var (
	//go:embed owe.lua
	oweLua    string
	oweScript = redis.NewScript(countLua + oweLua)
)

// debt is what this gateway let in of one tag's rates while it could not ask: without
// it Redis would have forgiven that meanwhile, and a whole burst would be there besides.
type debt admit.Debt

// call tells Redis. It counts as often as it is sent.
func (d *debt) call(prefix string) redis.Call {
	if d.Tag == admit.Everybody {
		a := drawAsk{rate: d.Limits.PerSecond, debt: d.Second}
		return a.call(prefix)
	}
	var text [512]byte
	var ends [keys + 11]int
	return words{text[:0], ends[:0]}.
		keys(prefix, d.Tag).
		common(0, d.Limits.Tokens, &quotaAsk{}).
		number(int64(d.Limits.PerSecond.Each)).
		number(d.Second).
		number(int64(d.Limits.PerMinute.Each)).
		number(d.Minute).
		number(d.Tokens).
		call(oweScript)
}
