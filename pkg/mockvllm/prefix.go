package mockvllm

import (
	"container/list"
	"hash/maphash"
	"slices"
)

// blockTokens is the size of a KV block, vLLM's default.
const blockTokens = 16

// tokenBytes is how much prompt text counts as one token.
const tokenBytes = 4

// blocks is the number of KV blocks that hold n tokens.
func blocks(n int) int { return (n + blockTokens - 1) / blockTokens }

// hashSeed is one for the process: two engines in it hash alike.
var hashSeed = maphash.MakeSeed()

// blockHashes hashes the full blocks of a prompt, each chained to the one
// before, so that equal hashes mean equal prefixes. salt keeps models and
// cache_salt values apart.
func blockHashes(salt string, prompt []byte) []uint64 {
	const size = blockTokens * tokenBytes
	out := make([]uint64, 0, len(prompt)/size)
	parent := maphash.String(hashSeed, salt)
	for ; len(prompt) >= size; prompt = prompt[size:] {
		parent = maphash.Comparable(hashSeed, [2]uint64{parent, maphash.Bytes(hashSeed, prompt[:size])})
		out = append(out, parent)
	}
	return out
}

// prefixCache remembers computed blocks, the least recently used go first.
// It is not safe for concurrent use.
type prefixCache struct {
	capacity int
	order    *list.List // of uint64, most recent first
	at       map[uint64]*list.Element
}

func newPrefixCache(capacity int) *prefixCache {
	return &prefixCache{capacity: capacity, order: list.New(), at: map[uint64]*list.Element{}}
}

// match tells how many leading blocks are known.
func (p *prefixCache) match(hashes []uint64) int {
	for i, h := range hashes {
		if p.at[h] == nil {
			return i
		}
	}
	return len(hashes)
}

// add makes blocks the most recent ones, the first block most of all: a prefix
// without its beginning is worth nothing, so its end must be evicted first.
func (p *prefixCache) add(hashes []uint64) {
	for _, hashe := range slices.Backward(hashes) {
		if el := p.at[hashe]; el != nil {
			p.order.MoveToFront(el)
			continue
		}
		p.at[hashe] = p.order.PushFront(hashe)
	}
	for p.order.Len() > p.capacity {
		last := p.order.Back()
		delete(p.at, p.order.Remove(last).(uint64))
	}
}
