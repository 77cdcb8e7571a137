package openai

// Span is a range of a body: body[Start:End]. The zero Span means "not there".
type Span struct{ Start, End int }

// Request is what one pass over a JSON body found. The zero value is ready to
// use, and one Request may parse body after body.
//
// Spans are of values, whatever their type: a null has one too. The strings alias
// the body (or memory of the Request) and are valid until either is reused.
type Request struct {
	Model     string // decoded; "" when absent or null
	ModelSpan Span   // includes the quotes
	Stream    bool

	StreamSpan, StreamOptionsSpan, MaxTokensSpan Span

	// MaxTokens is max_completion_tokens, else max_tokens, else TGI's
	// parameters.max_new_tokens; -1 when none of them is there or it is null or
	// negative (llama.cpp's "no limit"). MaxTokensSpan is the one it came from.
	MaxTokens int64

	// PreviousResponseID is previous_response_id, decoded: the response that this one
	// continues, at most 512 bytes; "" when absent or null.
	PreviousResponseID string

	// ObjectEnd is the index of the closing brace of the top-level object, where a
	// later stage may splice a further key.
	ObjectEnd int

	empty   bool   // the object has no members
	decoded []byte // the strings that were written with escapes
	quoted  []byte // the name that Splice put in
}

// SyntaxError says why a body is not a request. It is the client's fault: 400.
type SyntaxError struct {
	Param   string // the field at fault, "" when it is the JSON itself
	Message string // for the client
}

func (e *SyntaxError) Error() string {
	if e.Param == "" {
		return e.Message
	}
	return e.Param + ": " + e.Message
}

// Reset forgets the request and keeps the memory of its own.
func (r *Request) Reset() {
	*r = Request{MaxTokens: -1, decoded: reuse(r.decoded), quoted: reuse(r.quoted)}
}

// Parse reads body, validates all of it as JSON (RFC 8259, in valid UTF-8, nested
// at most 64 deep, an object at the top) and finds the fields that Request names.
// It keeps the body's bytes, copies none, and allocates nothing unless a string that
// it keeps is written with escapes for the first time or the body is refused.
//
// The engines' JSON readers take the last of two equal keys, others the first or
// any spelling. So that nobody behind us can read another request than we did, a
// field of Request that occurs twice, also by escapes, or in another spelling
// ("Model", "ſtream") is refused. Other keys are the engine's business, also when
// they occur twice: no stage of the gateway decides by them.
//
// The error is a *SyntaxError, and r then tells nothing.
func (r *Request) Parse(body []byte) error {
	r.Reset()
	s := scanner{b: body, r: r}
	if !s.body() {
		return s.err
	}
	return nil
}

// Splice appends to dst the parts that, sent one after the other, are body with
// model as its model. body must be the one that was parsed. Nothing of it is
// copied: the parts alias body and r, and are valid until either is reused.
func (r *Request) Splice(dst [][]byte, body []byte, model string) [][]byte {
	at := r.ModelSpan
	r.quoted = r.quoted[:0]
	if at == (Span{}) {
		at = Span{r.ObjectEnd, r.ObjectEnd}
		if !r.empty {
			r.quoted = append(r.quoted, ',')
		}
		r.quoted = append(r.quoted, `"model":`...)
	}
	r.quoted = appendString(r.quoted, model)
	return append(dst, body[:at.Start], r.quoted, body[at.End:])
}

// reuse empties b for its next use, unless one absurd name has blown it up.
func reuse(b []byte) []byte {
	if cap(b) > 4096 {
		return nil
	}
	return b[:0]
}
