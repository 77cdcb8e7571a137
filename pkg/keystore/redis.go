package keystore

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/redis"
)

const (
	// askTime is how long Redis may take for one command: at start and for changes
	// only, no request waits for it.
	askTime = 2 * time.Second
	// newTime is how long a store without an epoch is left to whoever knows its keys,
	// before it passes for a new one.
	newTime = 2 * time.Second
	// adoptTime is how long documents without an epoch are left to whoever knows it.
	adoptTime = 10 * time.Second
	// heardTime is how long a store that cannot be followed passes for unchanged.
	heardTime = 2 * time.Second
)

var (
	//go:embed common.lua
	commonLua string
	//go:embed look.lua
	lookLua string
	//go:embed change.lua
	changeLua string
	//go:embed heal.lua
	healLua string

	lookScript   = redis.NewScript(commonLua + lookLua)
	changeScript = redis.NewScript(commonLua + changeLua)
	healScript   = redis.NewScript(commonLua + healLua)
)

// RedisOptions are where the keys are and what for.
type RedisOptions struct {
	// Client asks the Redis. It is the caller's to close, after Run has returned.
	Client *redis.Client
	// Prefix begins the names of all that is kept in Redis, without braces.
	Prefix string
	// Place names the Redis for operators, without secrets.
	Place string
	// Dir is where the snapshot is; "" for a process that needs none.
	Dir string
	// MaxAge is how old a snapshot may be for its keys to serve while Redis is away.
	MaxAge time.Duration
	// Now is the time of day.
	Now func() time.Time
	// Log hears of what an operator should know; nil is nobody.
	Log *slog.Logger
	// Changed is called after Keys or State has changed, but not for Version, Synced
	// and the text of Err alone. For what Add, Replace and Remove do to Keys it need
	// not be called: who calls those knows. nil is nobody. It is called by Run, which
	// follows nothing meanwhile.
	Changed func()
}

// State is how far a Redis store knows its keys.
type State struct {
	// Source is where Keys are from: "redis", "snapshot" while Redis has been away
	// since the start, "none" while there are none to be trusted.
	Source string
	// Complete false: a key that is not known cannot be judged. It may be in the
	// store, which was never read or could not be followed for two seconds, or be one
	// whose document cannot be read.
	Complete bool
	// Lost: the store was emptied, and what this one knows is not back in it yet.
	Lost bool
	// Losses counts how often that was found.
	Losses int64
	// Foreign: what is in the Redis is of another store. Nothing of it is taken over,
	// and nothing written.
	Foreign bool
	// Version is the position in the store's log that Keys are of, microseconds of
	// Redis's clock; equal on stores that know the same.
	Version int64
	// Synced is when Keys were last known to be as the store is; zero for never.
	Synced time.Time
	// Err is why they are not now, or why a crash would forget some of them; nil while
	// all is well.
	Err error
}

// Redis is the keys in a Redis that several gateways share, all of them in memory.
// Its methods may be called at the same time.
type Redis struct {
	o        RedisOptions
	names    []string // of the documents, the log and the epoch
	disk     disk
	newTime  time.Duration
	adopt    time.Duration // see adoptTime
	every    time.Duration // see lookEvery
	snapshot chan struct{} // there may be something to write
	keys     atomic.Pointer[[]*auth.Key]
	state    atomic.Pointer[State]

	untold   atomic.Bool // Changed has to be called
	founding sync.Mutex  // follower is that of whoever has it, when there is no Run

	mu      sync.Mutex // protects what follows
	table   *table
	taken   int64     // how many entries it took
	epoch   string    // of the table's store; "" is none yet
	serving bool      // the table's keys may be used
	unborn  bool      // Load has found no store
	heard   time.Time // when the store was last followed
	now     State     // but for what follows from the rest

	// Of the disk; mu protects these too.
	loaded     bool // the table has had all of the store
	based      bool // there is a snapshot that changes can be added to
	last       written
	journal    journal
	unsaved    error      // why there is no snapshot
	unlogged   error      // why the disk lacks some changes
	unloggedAt int64      // what taken is in a snapshot that has them
	saving     sync.Mutex // one snapshot at a time; before mu

	follower
}

// OpenRedis reads the snapshot and returns without waiting for Redis: until Run or
// Load has asked it, Keys are those of the snapshot, if that may serve. A snapshot
// that is damaged is logged, and as good as none. The error is for a snapshot that
// the system does not let it read.
func OpenRedis(o RedisOptions) (*Redis, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	r := &Redis{
		o: o, disk: realDisk(), newTime: newTime, adopt: adoptTime, every: lookEvery,
		snapshot: make(chan struct{}, 1), last: written{taken: -1}, table: newTable(), now: State{Source: "none", Err: errNotAsked},
	}
	for _, name := range []string{"keys", "log", "epoch"} {
		r.names = append(r.names, o.Prefix+"{keys}:"+name)
	}
	if err := r.recall(); err != nil {
		return nil, err
	}
	r.publish()
	return r, nil
}

var errNotAsked = fmt.Errorf("%w: not asked for the keys yet", ErrAway)

// Keys are as Store says, in the order in which they were made.
func (r *Redis) Keys() []*auth.Key { return *r.keys.Load() }

// Place is that of the options.
func (r *Redis) Place() string { return r.o.Place }

// State is how it stands now. It costs one load.
func (r *Redis) State() State { return *r.state.Load() }

// path is the snapshot's.
func (r *Redis) path() string { return filepath.Join(r.o.Dir, snapshotName) }

// update changes what mu protects, and shows it. It returns whether Keys are others
// afterwards.
func (r *Redis) update(change func()) (changed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	return r.publish()
}

// publish needs mu, or that nobody else knows r.
func (r *Redis) publish() (changed bool) {
	s := r.now
	following := s.Source == "redis" && !s.Foreign && (s.Err == nil || time.Since(r.heard) < heardTime)
	s.Complete = r.serving && following && r.table.faulty == 0
	s.Err = cmp.Or(s.Err, r.unsaved, r.unlogged)
	if n := r.table.faulty; s.Err == nil && n > 0 {
		s.Err = fmt.Errorf("%d keys in the key store cannot be read, and are refused: a newer LLMProxy may have written them, then use that; the log names them", n)
	}
	if before := r.state.Swap(&s); before == nil || s.differs(before) {
		r.untold.Store(true)
	}
	keys := []*auth.Key{}
	if r.serving {
		keys = r.table.list()
	}
	before := r.keys.Load()
	if before != nil && len(*before) == len(keys) && (len(keys) == 0 || &(*before)[0] == &keys[0]) {
		return false
	}
	r.keys.Store(&keys)
	return true
}

// differs tells whether a State is another for those who act on it.
func (s *State) differs(from *State) bool {
	a, b := *s, *from
	if (a.Err == nil) != (b.Err == nil) {
		return true
	}
	a.Err, a.Version, a.Synced = b.Err, b.Version, b.Synced
	return a != b
}

// call is a run of a script, all of which have the same keys.
func (r *Redis) call(script *redis.Script, args ...string) redis.Call {
	return redis.Call{Script: script, Keys: r.names, Args: args}
}

// run asks a script and returns what it answers: strings, the first of which says
// what the others are.
func (r *Redis) run(script *redis.Script, args ...string) ([]string, error) {
	m, err := r.o.Client.Run(r.call(script, args...), askTime)
	return answer(m, err)
}

func answer(m rueidis.RedisMessage, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	a, err := m.AsStrSlice()
	if err == nil && (len(a) < 2 || len(a) < 3 && a[0] == "document") {
		err = errors.New("too short")
	}
	if err != nil {
		return nil, fmt.Errorf("redis answers what the script does not: %w", err)
	}
	return a, nil
}
