package admit

import (
	"math"
	"sync/atomic"
)

// average is a moving average and how far the samples lie from it, in one word.
// The zero average has seen nothing.
type average struct{ bits atomic.Uint64 }

// averageWeight is the weight of a new sample.
const averageWeight = 1.0 / 8

func (a *average) load() (mean, deviation float64) {
	b := a.bits.Load()
	return float64(math.Float32frombits(uint32(b >> 32))), float64(math.Float32frombits(uint32(b)))
}

// add takes a sample. Of two at the same time one may be lost: it is an estimate.
func (a *average) add(x float64) {
	mean, deviation := a.load()
	if mean == 0 {
		mean = x
	} else {
		off := x - mean
		mean += averageWeight * off
		deviation += averageWeight * (math.Abs(off) - deviation)
	}
	a.bits.Store(uint64(math.Float32bits(float32(mean)))<<32 | uint64(math.Float32bits(float32(deviation))))
}

const (
	// firstAnswer is what an answer is reserved for while nothing is known of any,
	// in tokens.
	firstAnswer = 256
	// maxEstimate bounds an estimate, so that sums of them do not overflow, and
	// maxAnswers what an answer's is multiplied by.
	maxEstimate = 1 << 40
	maxAnswers  = 1 << 20
	// perByte is what a byte of a prompt has of a token, at least: whoever sends blanks,
	// or prompts that are hardly more than their JSON, teaches nothing of text.
	perByte = 0.25
)

// output is how many tokens an answer is reserved for: what the request says it
// may have, else what the answers of this client, or of all, were: the mean and
// twice the deviation.
func (g *Gate) output(s *state, says int64) int64 {
	if says >= 0 {
		return min(says, maxEstimate)
	}
	mean, deviation := s.answers.load()
	if mean == 0 {
		mean, deviation = g.answers.load()
	}
	if mean == 0 {
		return firstAnswer
	}
	return int64(min(mean+2*deviation, maxEstimate))
}

// Model is what is learnt about the prompts of one model.
type Model struct{ ratio average }

// Model returns the one of that name, which comes from the configuration.
func (g *Gate) Model(name string) *Model {
	if m, ok := g.models.Load(name); ok {
		return m
	}
	if g.models.Size() >= maxModels {
		return new(Model)
	}
	m, _ := g.models.LoadOrCompute(name, func() (*Model, bool) { return new(Model), false })
	return m
}

// Prompt estimates the tokens of a prompt by the bytes of its request: at least one,
// at most one a byte.
func (m *Model) Prompt(bytes int) int64 {
	ratio, deviation := m.ratio.load()
	return int64(math.Ceil(float64(max(bytes, 1)) * min(max(ratio+deviation, perByte), 1)))
}

// Learn takes how many tokens a prompt had. What has more than one a byte was not
// all in the request, a picture behind a URL for example, and tells nothing of text.
func (m *Model) Learn(bytes int, tokens int64) {
	if bytes > 0 && tokens > 0 && tokens <= int64(bytes) {
		m.ratio.add(float64(tokens) / float64(bytes))
	}
}
