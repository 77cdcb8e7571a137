package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	_ "embed"
)

// A gateway is what stands between the load and the engines.
type gateway struct {
	name    string
	version string
	url     string
	// inFlight tells the requests that each backend has, by host.
	inFlight func(context.Context) (map[string]int, error)
}

// llmproxy starts the gateway with the scenario's own configuration.
func (st *stage) llmproxy(ctx context.Context, dir string, ports *ports) (*gateway, error) {
	listen, err := ports.next()
	if err != nil {
		return nil, err
	}
	addrs := map[string]string{}
	for _, e := range st.engines {
		addrs[e.host] = e.addr
	}
	if err := st.redis(ctx, dir, ports, addrs); err != nil {
		return nil, err
	}
	billing, err := startBilling(ctx)
	if err != nil {
		return nil, err
	}
	config, err := st.scenario.Gateway(listen, billing, addrs)
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "llmproxy.yaml")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return nil, fmt.Errorf("cannot write the configuration: %w", err)
	}
	p, err := st.start("llmproxy", "bin/llmproxy", "serve", "-config", path)
	if err != nil {
		return nil, err
	}
	g := &gateway{name: "llmproxy", version: firstLine("bin/llmproxy", "version"), url: "http://" + listen}
	g.inFlight = func(ctx context.Context) (map[string]int, error) {
		page, err := get(ctx, g.url+"/metrics", adminTimeout)
		return gauges(string(page), "llmproxy_requests_in_flight"), err
	}
	err = until(ctx, p, func() error { _, err := get(ctx, g.url+"/readyz", time.Second); return err })
	if err != nil {
		return nil, fmt.Errorf("llmproxy %w", err)
	}
	return g, nil
}

// redis starts a Redis, as docs/cluster.md has it, if the scenario has one, and adds
// its address.
func (st *stage) redis(ctx context.Context, dir string, ports *ports, addrs map[string]string) error {
	host, err := st.scenario.Redis()
	if err != nil || host == "" {
		return err
	}
	path, err := exec.LookPath("redis-server")
	if err != nil {
		return errors.New("redis-server is not installed; run `make bench-deps`")
	}
	if addrs[host], err = ports.next(); err != nil {
		return err
	}
	_, port, err := net.SplitHostPort(addrs[host])
	if err != nil {
		return err
	}
	p, err := st.start("redis", path, "--bind", "127.0.0.1", "--port", port, "--dir", dir,
		"--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction")
	if err != nil {
		return err
	}
	if err := until(ctx, p, func() error {
		conn, err := net.DialTimeout("tcp", addrs[host], time.Second)
		if err == nil {
			err = conn.Close()
		}
		return err
	}); err != nil {
		return fmt.Errorf("redis %w", err)
	}
	return nil
}

// startBilling takes the gateway's reports of usage until ctx ends, and returns
// its URL.
func startBilling(ctx context.Context) (url string, err error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("cannot start a billing system: %w", err)
	}
	srv := &http.Server{
		ReadHeaderTimeout: adminTimeout,
		Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
		}),
	}
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	go func() { _ = srv.Serve(ln) }() // ends with Close
	return "http://" + ln.Addr().String(), nil
}

// gauges reads a metric of a Prometheus page by its only label.
func gauges(page, metric string) map[string]int {
	out := map[string]int{}
	for line := range strings.Lines(page) {
		rest, ok := strings.CutPrefix(line, metric+`{backend="`)
		if !ok {
			continue
		}
		name, value, _ := strings.Cut(strings.TrimSpace(rest), `"} `)
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			out[name] = int(n)
		}
	}
	return out
}

//go:embed nginx.conf
var nginxConf string

// errNoNginx leaves nginx's column empty.
var errNoNginx = errors.New("nginx is not installed (Debian: apt-get install nginx-light)")

// pool is the engines that serve one model, for a gateway that has to be told.
type pool struct {
	Name  string
	Addrs []string
}

// nginx starts Debian's nginx with one pool for each model.
func (st *stage) nginx(ctx context.Context, dir string, ports *ports) (*gateway, error) {
	path, err := exec.LookPath("nginx")
	if err != nil {
		path, err = exec.LookPath("/usr/sbin/nginx") // which is not in everybody's PATH
	}
	if err != nil {
		return nil, errNoNginx
	}
	listen, err := ports.next()
	if err != nil {
		return nil, err
	}
	pools, err := st.pools()
	if err != nil {
		return nil, err
	}
	var conf strings.Builder
	err = template.Must(template.New("nginx.conf").Parse(nginxConf)).Execute(&conf, map[string]any{
		"Dir": dir, "Listen": listen, "Pools": pools, "Root": os.Geteuid() == 0,
	})
	if err != nil {
		return nil, fmt.Errorf("cannot write nginx's configuration: %w", err)
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf.String()), 0o600); err != nil {
		return nil, fmt.Errorf("cannot write nginx's configuration: %w", err)
	}
	p, err := st.start("nginx", path, "-c", file, "-p", dir, "-e", filepath.Join(dir, "error.log"))
	if err != nil {
		return nil, err
	}
	g := &gateway{name: "nginx", version: firstLine(path, "-v"), url: "http://" + listen, inFlight: st.connections}
	err = until(ctx, p, func() error { _, err := get(ctx, g.url+"/ready", time.Second); return err })
	if err != nil {
		return nil, fmt.Errorf("nginx %w", err)
	}
	return g, nil
}

// pools are the pools of the models that are asked for, named after them.
func (st *stage) pools() ([]pool, error) {
	var out []pool
	seen := map[string]bool{}
	for _, l := range st.scenario.Load {
		if seen[l.Model] {
			continue
		}
		seen[l.Model] = true
		hosts, err := st.scenario.Pool(l.Model)
		if err != nil {
			return nil, err
		}
		p := pool{Name: l.Model}
		for _, host := range hosts {
			for _, e := range st.engines {
				if e.host == host {
					p.Addrs = append(p.Addrs, e.addr)
				}
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// connections counts the connections to each engine, as /proc/net/tcp lists
// them. nginx, which has no such figure, makes one for each request.
func (st *stage) connections(context.Context) (map[string]int, error) {
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		return nil, fmt.Errorf("cannot count connections: %w", err)
	}
	hosts := map[string]string{}
	out := map[string]int{}
	for _, e := range st.engines {
		_, port, _ := strings.Cut(e.addr, ":")
		n, err := strconv.Atoi(port)
		if err != nil {
			return nil, err
		}
		hosts[fmt.Sprintf("0100007F:%04X", n)] = e.host
		out[e.host] = 0
	}
	const established = "01"
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) > 3 && f[3] == established {
			if host, ok := hosts[f[2]]; ok {
				out[host]++
			}
		}
	}
	return out, nil
}

// firstLine is the first line that a program says.
func firstLine(path string, args ...string) string {
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		return "unknown: " + err.Error()
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(strings.TrimPrefix(line, "nginx version: "))
}
