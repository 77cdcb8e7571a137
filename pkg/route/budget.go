package route

// The retry budget keeps a pool that is in trouble from being asked twice for
// everything: at most a share of the requests in flight may be on a retry, and
// a few always (Envoy's retry_budget has the same default).
const (
	retryShare = 5 // one in five
	minRetries = 3
)

// TryRetry takes a share of the pool's retry budget for a request that is to
// be tried again. It returns false when none is left; otherwise RetryDone must
// be called when the request has ended.
func (p *Pool) TryRetry() bool {
	n := p.retries.Add(1)
	if n <= minRetries {
		return true
	}
	var active int64
	for _, b := range p.backends {
		active += b.InFlight()
	}
	if n*retryShare <= active {
		return true
	}
	p.retries.Add(-1)
	return false
}

// RetryDone gives back what TryRetry took.
func (p *Pool) RetryDone() { p.retries.Add(-1) }
