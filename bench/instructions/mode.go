package main

import (
	"fmt"

	"github.com/llmproxy/llmproxy/bench/tenants"
)

// mode is what a gateway has to do beside passing requests on.
type mode uint8

const (
	plain   mode = iota
	metered      // it records what each request uses
	limited      // it asks for keys, each with limits
)

var modes = []mode{plain, metered, limited}

const configuration = `listen: %q
backends:
  - url: http://%s
    models: [chat, qwen-72b-chat]
    keep_alive: 10m
    engine: vllm
    continuous_usage: true
routing:
  model_mapping:
    qwen: qwen-72b-chat
server:
  idle_timeout: 10m
health_check:
  enabled: false
`

// metering has the gateway record what each request uses. The billing system
// takes the first batch and never answers, and the disk is left to the kernel:
// when either would go on is a matter of time. What both cost is measured as
// time, by bench/peers and the benchmarks of pkg/events.
const metering = `data_dir: %q
usage_hook:
  enabled: true
  url: http://%s
  timeout: 1h
  sync: os
`

// limiting has it ask for keys, which are in a file, and limit all of them
// together, too.
const limiting = `data_dir: %q
auth:
  enabled: true
rate_limit:
  enabled: true
  global:
    requests_per_second: 1000000
`

// others is how many keys there are beside the one in use.
const others = 10_000

// configure returns the configuration of a gateway that listens at addr, and
// writes the keys that it asks for into data, where it also keeps its journal.
// Only a metered one has a billing system.
func configure(in mode, addr, engine, billing, data string) (string, error) {
	text := fmt.Sprintf(configuration, addr, engine)
	switch in {
	case metered:
		return text + fmt.Sprintf(metering, data, billing), nil
	case limited:
		used := tenants.Used{Secret: secret, Models: []string{"chat", "qwen"}}
		return text + fmt.Sprintf(limiting, data), tenants.Write(data, used, others)
	}
	return text, nil
}
