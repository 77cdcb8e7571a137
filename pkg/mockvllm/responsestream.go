package mockvllm

import "encoding/json"

// responseWriter makes the events of a response, whoever they are for.
type responseWriter struct {
	*response
	emit   func(name string, data []byte) error
	number int         // of the next event
	item   *outputItem // open
	index  int         // of the open item, or the next
}

// responseEvent is one event; which fields it has depends on its type.
type responseEvent struct {
	Response  any     `json:"response,omitempty"`
	Arguments *string `json:"arguments,omitempty"`
	Content   *int    `json:"content_index,omitempty"`
	Delta     string  `json:"delta,omitempty"`
	Item      any     `json:"item,omitempty"`
	ItemID    string  `json:"item_id,omitempty"`
	Logprobs  *[]any  `json:"logprobs,omitempty"`
	Name      string  `json:"name,omitempty"`
	Index     *int    `json:"output_index,omitempty"`
	Part      any     `json:"part,omitempty"`
	Number    int     `json:"sequence_number"`
	Text      *string `json:"text,omitempty"`
	Type      string  `json:"type"`
}

func (w *responseWriter) send(name string, e responseEvent) error {
	e.Type, e.Number = name, w.number
	w.number++
	return w.emit(name, encode(e))
}

// about begins an event about the open item.
func (w *responseWriter) about() responseEvent {
	return responseEvent{ItemID: w.item.itemID(), Index: new(w.index)}
}

// inside begins an event about the content of the open item, which is its only one.
func (w *responseWriter) inside() responseEvent {
	e := w.about()
	e.Content = new(0)
	return e
}

// write emits the events in vLLM's order: two at once, the rest as tokens come.
func (w *responseWriter) write() error {
	for _, name := range []string{"response.created", "response.in_progress"} {
		if err := w.send(name, responseEvent{Response: w.object("in_progress")}); err != nil {
			return err
		}
	}
	err := w.deliver(func(_, j int) error { return w.piece(w.choices[0].pieces[j]) })
	if err == nil {
		err = w.closeItem()
	}
	if err != nil {
		return err
	}
	// vLLM calls an incomplete response completed too; its status tells.
	return w.send("response.completed", responseEvent{Response: w.object(w.outcome())})
}

// failed is the last event when generation fails. OpenAI's: vLLM 0.33 has none
// and breaks the connection, as the fault fin does.
func (r *response) failed(number int) (string, []byte) {
	o := struct {
		*responseObject
		Error map[string]string `json:"error"`
	}{r.object("failed"), map[string]string{"code": "server_error", "message": "Internal server error"}}
	const name = "response.failed"
	return name, encode(responseEvent{Response: o, Number: number, Type: name})
}

// piece emits one token, in an item of its kind.
func (w *responseWriter) piece(p piece) error {
	if !p.shown() {
		return nil
	}
	if w.item == nil || w.item.kind != p.itemKind() {
		if err := w.openItem(p); err != nil {
			return err
		}
	}
	w.item.add(p)
	switch p.kind {
	case pieceTool:
		return nil
	case pieceArgs:
		e := w.about()
		e.Delta = p.text
		return w.send("response.function_call_arguments.delta", e)
	case pieceReasoning:
		e := w.inside()
		e.Delta = p.text
		return w.send("response.reasoning_text.delta", e)
	}
	e := w.inside()
	e.Delta, e.Logprobs = p.text, &[]any{}
	return w.send("response.output_text.delta", e)
}

// openItem begins the item for a piece, after the end of the one before.
func (w *responseWriter) openItem(p piece) error {
	if err := w.closeItem(); err != nil {
		return err
	}
	w.item = &outputItem{kind: p.itemKind(), id: w.x.id}
	if p.kind == pieceTool {
		w.item.name = p.text
	}
	if err := w.send("response.output_item.added", responseEvent{Item: w.item.object("in_progress"), Index: new(w.index)}); err != nil {
		return err
	}
	e := w.inside()
	switch w.item.kind {
	case pieceTool:
		return nil
	case pieceReasoning:
		e.Part = w.item.part()
		return w.send("response.reasoning_part.added", e)
	}
	part := w.item.part()
	part.Logprobs = json.RawMessage("[]")
	e.Part = part
	return w.send("response.content_part.added", e)
}

// closeItem ends the open item.
func (w *responseWriter) closeItem() error {
	if w.item == nil {
		return nil
	}
	var err error
	switch w.item.kind {
	case pieceTool:
		e := w.about()
		e.Arguments, e.Name = &w.item.text, w.item.name
		err = w.send("response.function_call_arguments.done", e)
	case pieceReasoning:
		err = w.closePart("response.reasoning_text.done", "response.reasoning_part.done", nil)
	default:
		err = w.closePart("response.output_text.done", "response.content_part.done", &[]any{})
	}
	if err == nil {
		err = w.send("response.output_item.done", responseEvent{Item: w.item.object("completed"), Index: new(w.index)})
	}
	w.item = nil
	w.index++
	return err
}

// closePart ends the text and the part that holds it.
func (w *responseWriter) closePart(text, part string, logprobs *[]any) error {
	e := w.inside()
	e.Text, e.Logprobs = &w.item.text, logprobs
	if err := w.send(text, e); err != nil {
		return err
	}
	e = w.inside()
	e.Part = w.item.part()
	return w.send(part, e)
}
