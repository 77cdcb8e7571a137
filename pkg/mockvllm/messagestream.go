package mockvllm

import "encoding/json"

// messageDelta is what an event adds to a block, or to the message.
type messageDelta struct {
	Type      string `json:"type,omitempty"`
	Text      string `json:"text,omitempty"`
	Thinking  string `json:"thinking,omitempty"`
	JSON      string `json:"partial_json,omitempty"`
	Signature string `json:"signature,omitempty"`
	Reason    string `json:"stop_reason,omitempty"`
	Sequence  string `json:"stop_sequence,omitempty"`
}

// messageEvent is one event; fields that are unset are left out.
type messageEvent struct {
	Type    string        `json:"type"`
	Message any           `json:"message,omitempty"`
	Delta   *messageDelta `json:"delta,omitempty"`
	Block   *contentBlock `json:"content_block,omitempty"`
	Index   *int          `json:"index,omitempty"`
	Usage   *messageUsage `json:"usage,omitempty"`
}

func (m *messageAnswer) send(e messageEvent) error { return m.out.named(e.Type, encode(e)) }

// stream writes the message as vLLM converts it from the chunks of a chat: it
// starts with the first token.
func (m *messageAnswer) stream() error {
	h := sseHead
	var err error
	if m.out, err = m.x.open(&h); err != nil {
		return err
	}
	err = m.deliver(func(_, j int) error {
		if j == 0 {
			if err := m.start(); err != nil {
				return err
			}
		}
		return m.piece(m.choices[0].pieces[j])
	})
	if err == nil {
		err = m.closeBlock()
	}
	if err != nil {
		return err
	}
	reason, sequence := m.stopReason()
	delta := &messageDelta{Reason: reason, Sequence: sequence}
	if err := m.send(messageEvent{Type: "message_delta", Delta: delta, Usage: m.usage(m.tokens())}); err != nil {
		return err
	}
	if !m.x.fault.is("no-done") {
		if err := m.send(messageEvent{Type: "message_stop"}); err != nil {
			return err
		}
	}
	return m.out.close(false)
}

// start sends the message without its content.
func (m *messageAnswer) start() error {
	return m.send(messageEvent{Type: "message_start", Message: struct {
		ID       string        `json:"id"`
		Type     string        `json:"type"`
		Role     string        `json:"role"`
		Content  []string      `json:"content"`
		Model    string        `json:"model"`
		Reason   any           `json:"stop_reason"`
		Sequence any           `json:"stop_sequence"`
		Usage    *messageUsage `json:"usage,omitempty"`
	}{m.id, "message", "assistant", []string{}, m.model, nil, nil, m.usage(0)}})
}

// piece sends one token, in a block of its kind.
func (m *messageAnswer) piece(p piece) error {
	delta := &messageDelta{}
	switch {
	case p.text == "":
		return nil
	case p.kind == pieceTool:
		return m.openBlock(p)
	case p.kind == pieceArgs:
		delta.Type, delta.JSON = "input_json_delta", p.text
	case p.kind == pieceReasoning:
		delta.Type, delta.Thinking = "thinking_delta", p.text
	default:
		delta.Type, delta.Text = "text_delta", p.text
	}
	if p.kind != pieceArgs && (!m.open || m.block != p.kind) {
		if err := m.openBlock(p); err != nil {
			return err
		}
	}
	return m.send(messageEvent{Type: "content_block_delta", Index: &m.index, Delta: delta})
}

// openBlock begins the block for a piece, after the end of the one before.
func (m *messageAnswer) openBlock(p piece) error {
	if err := m.closeBlock(); err != nil {
		return err
	}
	m.open, m.block = true, p.kind
	none := ""
	block := &contentBlock{}
	switch p.kind {
	case pieceTool:
		block.Type, block.ID, block.Name, block.Input = "tool_use", m.toolID(0), p.text, json.RawMessage("{}")
	case pieceReasoning:
		block.Type, block.Thinking = "thinking", &none
	default:
		block.Type, block.Text = "text", &none
	}
	return m.send(messageEvent{Type: "content_block_start", Index: &m.index, Block: block})
}

func (m *messageAnswer) closeBlock() error {
	if !m.open {
		return nil
	}
	if m.block == pieceReasoning {
		delta := &messageDelta{Type: "signature_delta", Signature: m.signature()}
		if err := m.send(messageEvent{Type: "content_block_delta", Index: &m.index, Delta: delta}); err != nil {
			return err
		}
	}
	if err := m.send(messageEvent{Type: "content_block_stop", Index: &m.index}); err != nil {
		return err
	}
	m.open = false
	m.index++
	return nil
}
