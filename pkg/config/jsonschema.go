package config

import _ "embed"

//go:embed llmproxy.schema.json
var jsonSchema string

// Schema is the JSON Schema (draft 2020-12) of the file, for editors: keys,
// types, words, defaults, and what each key means. It does not know the rules
// between keys; Load does.
func Schema() []byte { return []byte(jsonSchema) }
