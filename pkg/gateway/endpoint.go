package gateway

import "github.com/llmproxy/llmproxy/pkg/openai"

// endpoint is one row of the table of surfaces: how they differ, and nothing
// else of them does.
type endpoint struct {
	path   string // here and, behind the backend's prefix, on the engine
	native bool   // TGI's own API: its error shape, and no model in the body
}

// endpoints are what the gateway forwards. Whatever an engine serves beside
// them, its admin endpoints above all, cannot be reached.
var endpoints = [...]endpoint{
	{path: "/v1/chat/completions"},
	{path: "/v1/completions"},
	{path: "/v1/embeddings"},
	{path: "/generate", native: true},
	{path: "/generate_stream", native: true},
}

// appendError writes err in the shape that the endpoint's clients read. A nil
// endpoint is a path that is none.
func (e *endpoint) appendError(dst []byte, err *openai.Error) []byte {
	if e != nil && e.native {
		return err.AppendTGI(dst)
	}
	return err.Append(dst)
}

// appendErrorEvent is the same for a stream that has begun.
func (e *endpoint) appendErrorEvent(dst []byte, err *openai.Error) []byte {
	if e.native {
		return err.AppendTGIEvent(dst)
	}
	return err.AppendEvent(dst)
}
