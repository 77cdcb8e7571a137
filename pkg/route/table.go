package route

import (
	"iter"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// TableConfig is what a Table is built from.
type TableConfig struct {
	Backends []BackendConfig
	Strategy Strategy
	// Mapping leads from the name a client uses to the name sent upstream. It
	// is applied once: a name it leads to is not looked up again.
	Mapping  map[string]string
	Fallback []FallbackConfig
	// Seed moves the start of every rotation, so that several gateways do not
	// march in step; 0 starts at the first backend.
	Seed uint64
	// SlowStart is how long a backend that came back gets less than its weight:
	// its share grows in a straight line from a tenth to the whole; 0 gives it
	// the whole at once. One came back when the active checks found it healthy
	// again or its ejection ended; at the start of the process, and by being
	// new in a table, none did. The time runs from the first pick after that,
	// or from the answer that ended the ejection. Envoy's slow_start and
	// HAProxy's slowstart do the same.
	SlowStart time.Duration
}

// FallbackConfig orders what follows a failure of one backend.
type FallbackConfig struct {
	// Primary is the URL of the backend that failed.
	Primary string
	// Fallback are the URLs to try, in this order. One that cannot serve the
	// model is skipped.
	Fallback []string
	// Models are the names, or globs, as sent upstream, for which this entry
	// holds; none means any.
	Models []string
}

// Reason says why a model led to no pool.
type Reason int

const (
	// Found: it did lead to one.
	Found Reason = iota
	// NoModel: no model was named, and more than one pool could be meant.
	NoModel
	// Unknown: no backend serves a model of that name.
	Unknown
)

// Resolved is what a model name stands for.
type Resolved struct {
	// Model is the name to send upstream; "" leaves the request as it is.
	Model string
	// Pool is nil when Reason is not Found.
	Pool   *Pool
	Reason Reason
}

const (
	// maxModel bounds the length of a name that is matched against globs:
	// longer than any path an engine could be started with.
	maxModel = 4096
	// maxJoins bounds the pools remembered for models that match several
	// globs. Which occur is up to clients; beyond it a pool is made for each
	// request, which costs more and balances by load only.
	maxJoins = 1024
)

// Table is the routing of one configuration. It is immutable but for the pools
// of models that match several globs, and those of Serving, which are made when
// first asked for.
type Table struct {
	backends []*Backend
	strategy Strategy
	seed     uint64
	fallback []FallbackConfig
	slow     time.Duration
	flips    *atomic.Uint64 // counts changes of availability; shared over reloads

	names   []string
	exact   map[string]Resolved
	globs   map[string][]*glob // by literal prefix
	lengths []int              // of those prefixes, ascending
	any     *Pool              // the backends that serve any model; nil: none
	only    *Pool              // the one pool there is; nil: several
	all     *Pool              // every backend

	mu    sync.Mutex // one writer of joins at a time
	joins atomic.Pointer[map[join]*Pool]
}

// join is the pool of what matched so far, widened by one more glob.
type join struct {
	pool *Pool
	glob *glob
}

// Backends are all backends, by Index. The slice must not be changed.
func (t *Table) Backends() []*Backend { return t.backends }

// Everything is the pool of all backends, for requests that name no model and
// could mean any. Its Label is "*".
func (t *Table) Everything() *Pool { return t.all }

// Of finds the backend of this table that has the State s, such as the home of
// a response after a reload; nil when there is none, or s is nil.
func (t *Table) Of(s *State) *Backend {
	for _, b := range t.backends {
		if b.State == s {
			return b
		}
	}
	return nil
}

// Names are the model names configuration tells: those a mapping begins with
// and those of backends that are no globs, in alphabetical order.
func (t *Table) Names() []string { return slices.Clone(t.names) }

// Resolve finds the pool for the model a client named, "" when it named none,
// and the name to send upstream. ok is false when r.Reason tells why not.
func (t *Table) Resolve(model string) (r Resolved, ok bool) {
	if model == "" {
		if t.only == nil {
			return Resolved{Reason: NoModel}, false
		}
		return Resolved{Pool: t.only}, true
	}
	if r, ok = t.exact[model]; ok {
		return r, true
	}
	if len(model) > maxModel {
		return Resolved{Reason: Unknown}, false
	}
	pool := t.any
	for g := range t.matches(model) {
		pool = t.widen(pool, g)
	}
	if pool == nil {
		return Resolved{Reason: Unknown}, false
	}
	return Resolved{Pool: pool}, true
}

// matches are the globs that match a model name. Their number has little say in
// the time: the name is looked up once per length a literal prefix has.
func (t *Table) matches(model string) iter.Seq[*glob] {
	return func(yield func(*glob) bool) {
		for _, n := range t.lengths {
			if n > len(model) {
				return
			}
			for _, g := range t.globs[model[:n]] {
				if match(g.tail, model[n:]) && !yield(g) {
					return
				}
			}
		}
	}
}

// widen adds the backends of g to what matched so far.
func (t *Table) widen(pool *Pool, g *glob) *Pool {
	if pool == t.any {
		return g.pool
	}
	if wider := (*t.joins.Load())[join{pool, g}]; wider != nil {
		return wider
	}
	wider := &Pool{Label: pool.Label, literals: pool.literals}
	if g.literals > pool.literals {
		wider.Label, wider.literals = g.text, g.literals
	}
	wider.group = t.newGroup(union(pool.backends, g.pool.backends))
	if len(*t.joins.Load()) >= maxJoins {
		return wider
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	joins := *t.joins.Load()
	if first := joins[join{pool, g}]; first != nil {
		return first // another request was faster
	}
	if len(joins) < maxJoins {
		joins = maps.Clone(joins)
		joins[join{pool, g}] = wider
		t.joins.Store(&joins)
	}
	return wider
}
