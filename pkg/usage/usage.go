package usage

// Usage is what a request used. A number that an engine does not tell is 0.
type Usage struct {
	// Prompt is the tokens of all prompts, those found in a cache included, also
	// where the engine tells them apart, as Anthropic's API does.
	Prompt int64
	Cached int64 // tokens of Prompt that a prefix cache had

	Completion int64 // tokens generated, over all choices, Reasoning included
	Reasoning  int64 // tokens of Completion that were thought and not answered
	Total      int64 // as told by the engine, else Prompt and Completion

	Seconds float64 // of audio, where that is what the engine counts
}

// Kind is the family of surfaces that an answer belongs to. The zero value is of
// those that generate nothing: their answers are not looked at.
type Kind uint8

const (
	KindNone        Kind = iota // tokenize, count_tokens and the like
	KindChat                    // /v1/chat/completions
	KindCompletions             // /v1/completions
	KindResponses               // /v1/responses
	KindMessages                // Anthropic's /v1/messages
	KindTGI                     // TGI's own /generate and /generate_stream
	KindSGLang                  // SGLang's own /generate
	KindPooling                 // embeddings, rerank, score, classify, pooling
	KindAudio                   // transcriptions and translations
)

// usage is what the numbers mean on a surface, and whether they count anything:
// one that is told to have used nothing at all has been told nothing.
func (c *counts) usage(kind Kind) (u Usage, found bool) {
	n := &c.number
	u = Usage{
		Prompt: n[fieldPrompt], Cached: max(n[fieldCached], n[fieldCacheRead]),
		Completion: n[fieldCompletion], Reasoning: n[fieldReasoning], Total: n[fieldTotal],
	}
	if kind == KindMessages {
		u.Prompt += n[fieldCacheRead] + n[fieldCacheWrite]
	}
	if kind == KindAudio {
		u.Seconds = c.seconds
	}
	if c.has&(1<<fieldPredicted) != 0 {
		u.Cached = max(u.Cached, n[fieldPromptOld])
		if u.Prompt == 0 && u.Completion == 0 {
			u.Prompt, u.Completion = n[fieldPromptNew]+n[fieldPromptOld], n[fieldPredicted]
		}
	}
	if u.Total == 0 {
		u.Total = u.Prompt + u.Completion
	}
	return u, u.Total > 0 || u.Seconds > 0
}
