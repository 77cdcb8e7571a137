// Package openai is the wire: the request body, the event stream and the error
// objects of the APIs that inference engines speak, OpenAI's and those beside it.
//
// Nothing here holds on to what it reads. A Request is found in one pass over the
// body, as byte spans of it; a Form, an Events counter and a ResponseID look at what
// goes by in passing.
package openai
