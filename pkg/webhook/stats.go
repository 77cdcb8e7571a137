package webhook

import (
	"maps"
	"time"
)

// result is what an attempt came to.
type result string

const (
	delivered   result = "delivered"   // 2xx
	busy        result = "busy"        // 408, 425, 429, 5xx
	unreachable result = "unreachable" // no answer: refused, reset, no such name, bad certificate
	timeout     result = "timeout"     // no answer in time
	redirected  result = "redirected"  // 3xx
	refused     result = "refused"     // 401, 403, 404 and all that is not named here
	tooLarge    result = "too_large"   // 413
	rejected    result = "rejected"    // 400, 422
	gone        result = "gone"        // 410
)

// Stats is what a Sender has done since New.
type Stats struct {
	Events      uint64            // accepted by the receiver
	Batches     uint64            // accepted by the receiver
	Dead        uint64            // events written to the dead-letter file
	Attempts    map[string]uint64 // by result, all of them present: delivered, busy, unreachable, timeout, redirected, refused, too_large, rejected, gone
	AttemptTime time.Duration     // of all attempts together; their number is the sum of Attempts
	LastSuccess time.Time         // when a batch was last accepted; zero: never
	Failures    uint64            // attempts in a row, up to the last one, that were not delivered
	Stopped     bool              // by a 410
}

func newStats() Stats {
	s := Stats{Attempts: map[string]uint64{}}
	for _, r := range []result{delivered, busy, unreachable, timeout, redirected, refused, tooLarge, rejected, gone} {
		s.Attempts[string(r)] = 0
	}
	return s
}

// Stats returns the state of this moment. It may be called at any time.
func (s *Sender) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.stats
	stats.Attempts = maps.Clone(stats.Attempts)
	return stats
}

// count takes an attempt with so many events into the statistics, and returns
// how many had failed in a row before it.
func (s *Sender) count(a answer, events int) (failures uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	failures = s.stats.Failures
	s.stats.Attempts[string(a.result)]++
	s.stats.AttemptTime += a.took
	s.stats.Failures++
	switch a.result {
	case delivered:
		s.stats.Events += uint64(events)
		s.stats.Batches++
		s.stats.Failures = 0
		s.stats.LastSuccess = s.config.Now()
	case gone:
		s.stats.Stopped = true
	}
	return failures
}
