package route

import (
	"hash/maphash"
	"sync"
)

// Home is where a response lives.
type Home struct {
	// State is that of the backend that made the response; Table.Of finds the
	// backend, also after a reload.
	State *State
	// Model is the model that made the response, by whichever name was put.
	Model string
	// Owner is who the response was made for; zero: nobody in particular.
	Owner [8]byte
}

// Affinity remembers where responses live, up to a fixed number of them. It is
// safe for concurrent use. An entry takes about 170 bytes and the lengths of
// its id and model; nothing is taken in advance.
type Affinity struct {
	seed   maphash.Seed
	shards []shard
}

// maxShards is how many parts an Affinity has at most, so that requests rarely
// wait for each other.
const maxShards = 32

// shard is one part of an Affinity, chosen by the hash of the id.
type shard struct {
	mu    sync.Mutex
	homes map[string]place
	ring  []string // the ids in the order they were put
	next  int      // the oldest, once the ring has reached its size
	size  int
}

type place struct {
	Home
	slot int // in ring
}

// NewAffinity makes an Affinity for so many responses; one for none, or fewer,
// remembers nothing.
func NewAffinity(size int) *Affinity {
	a := &Affinity{seed: maphash.MakeSeed()}
	n := min(size, maxShards)
	for i := range n {
		a.shards = append(a.shards, shard{homes: map[string]place{}, size: (size + i) / n})
	}
	return a
}

// Put remembers the home of the response id, in place of what was known of it.
// When there is no room, the oldest entry goes, or nearly the oldest: ids are
// spread over parts, and each part gives up its own. The strings are kept.
func (a *Affinity) Put(id string, home Home) {
	s := a.shard(id)
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.homes[id]; ok {
		s.homes[id] = place{home, known.slot}
		return
	}
	if len(s.ring) < s.size {
		s.homes[id] = place{home, len(s.ring)}
		s.ring = append(s.ring, id)
		return
	}
	// The slot may be left over from an id that was deleted and put again.
	if oldest := s.ring[s.next]; s.homes[oldest].slot == s.next {
		delete(s.homes, oldest)
	}
	s.homes[id] = place{home, s.next}
	s.ring[s.next] = id
	s.next = (s.next + 1) % s.size
}

// Get finds the home of the response id. It allocates nothing.
func (a *Affinity) Get(id string) (Home, bool) {
	s := a.shard(id)
	if s == nil {
		return Home{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known, ok := s.homes[id]
	return known.Home, ok
}

// Delete forgets the response id. The room it took is free again when it would
// have been the oldest.
func (a *Affinity) Delete(id string) {
	s := a.shard(id)
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.homes, id)
}

func (a *Affinity) shard(id string) *shard {
	if len(a.shards) == 0 {
		return nil
	}
	return &a.shards[maphash.String(a.seed, id)%uint64(len(a.shards))]
}
