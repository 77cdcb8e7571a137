// Package usage finds out what a request used: how many tokens the engine read,
// had cached and wrote, on every surface and in every engine's words.
//
// Three things, each usable without the others: a [Meter] reads an answer or a
// stream in passing; [Ask] tells what to add to a request so that the engine
// reports; a [Filter] takes what was added out of the stream again, so that the
// client gets the bytes it would have got. A Meter must see the bytes before a
// Filter edits them.
//
// Engines write JSON, so what is read is trusted to be JSON: of anything else a
// Meter and a Filter make something harmless, however the bytes are cut.
package usage
