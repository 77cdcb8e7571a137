//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"time"
)

// behaviour is how the engine answers a request, as it was set when the request
// came.
type behaviour struct {
	interval time.Duration // between events; 0 is as fast as the socket takes them
	events   int           // of a stream, with content
	sync     bool          // all streams tick at the same multiples of interval
	delay    time.Duration // before an answer begins
	stall    int           // events after which a stream falls silent; 0 is never
}

func usual() behaviour { return behaviour{interval: 20 * time.Millisecond, events: 64} }

// parseBehaviour reads the query of POST /control; what is absent is as usual.
func parseBehaviour(query string) (behaviour, error) {
	b := usual()
	values, err := url.ParseQuery(query)
	if err != nil {
		return b, fmt.Errorf("cannot read the query: %w", err)
	}
	for name := range values {
		value := values.Get(name)
		switch name {
		case "interval":
			b.interval, err = time.ParseDuration(value)
		case "delay":
			b.delay, err = time.ParseDuration(value)
		case "events":
			b.events, err = strconv.Atoi(value)
		case "stall":
			b.stall, err = strconv.Atoi(value)
		case "sync":
			b.sync, err = strconv.ParseBool(value)
		default:
			err = fmt.Errorf("unknown name")
		}
		if err != nil {
			return b, fmt.Errorf("cannot read %s=%q: %w", name, value, err)
		}
	}
	if b.interval < 0 || b.delay < 0 || b.events < 1 || b.stall < 0 {
		return b, fmt.Errorf("out of range: %q", query)
	}
	return b, nil
}

// counts are what GET /control tells.
type counts struct {
	Requests    int64 `json:"requests"` // chats read to their end
	StreamsOpen int64 `json:"streams_open"`
	Events      int64 `json:"events"` // with content
	Aborted     int64 `json:"aborted"`
	LastAbort   int64 `json:"last_abort_ns"` // wall clock
	Connections int64 `json:"connections"`   // open
	BodyBytes   int64 `json:"body_bytes"`    // of chats
}

func (c *counts) reply() []byte {
	b, err := json.Marshal(c)
	if err != nil { // numbers always marshal
		panic(err)
	}
	return reply(string(b), "")
}
