package openai

import (
	"bytes"

	"github.com/goccy/go-json/jsontext"
	json "github.com/goccy/go-json/v2"
)

// abort is how SGLang's own API tells in a stream that it refuses: an event
// without text whose finish reason has a status.
// https://github.com/sgl-project/sglang/blob/main/python/sglang/srt/managers/tokenizer_manager.py
type abort struct {
	Type    string `json:"type"`
	Message string `json:"message"`
	Status  int    `json:"status_code"`
}

// mayBeAbort reports whether the data of an event, perhaps not all of it, may be
// an abort: no engine sends anything else that begins so but SGLang, for a first
// token of which nothing can be shown yet.
func mayBeAbort(data []byte) bool {
	for _, s := range [...]string{"{", `"text"`, ":", `""`} {
		var ok bool
		if data, ok = token(data, s); !ok {
			return false
		}
	}
	return true
}

// isAbort reports whether the data of an event is an abort for a reason of the
// engine's.
func isAbort(data []byte) bool {
	if !mayBeAbort(data) || !bytes.Contains(data, []byte(`"abort"`)) {
		return false
	}
	_, ok := parseAbort(data)
	return ok
}

func parseAbort(data []byte) (a abort, ok bool) {
	var event struct {
		Meta struct {
			Finish jsontext.Value `json:"finish_reason"`
		} `json:"meta_info"`
	}
	if json.Unmarshal(data, &event) != nil || json.Unmarshal(event.Meta.Finish, &a) != nil {
		return a, false
	}
	return a, a.Type == "abort" && a.Status >= 400 && a.Status <= 599
}
