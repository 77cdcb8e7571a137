// Package openai is the wire: the request body, the event stream and the error
// objects of the OpenAI-style APIs that inference engines speak.
//
// Nothing here holds on to what it reads. A Request is found in one pass over the
// body, as byte spans of it; an Events counter looks at a stream in passing.
package openai
