package config

import (
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// Describe writes what the configuration means, for people. It shows no
// secrets. Errors of w are ignored.
func (c *Config) Describe(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	defer func() { _ = t.Flush() }()
	row := func(cells ...string) { fmt.Fprintln(t, strings.TrimRight(strings.Join(cells, "\t"), "\t")) }
	row("listen", c.listenText())
	row("strategy", c.Strategy)
	row("region", c.regionText())
	c.describeModels(row)
	c.describeRouting(row)
	row("health", c.healthText())
	row("timeouts", fmt.Sprintf("connect %s, first byte %s, between chunks %s, total %s",
		orNone(c.Timeouts.Connect), orNone(c.Timeouts.FirstByte), orNone(c.Timeouts.BetweenChunks), orNone(c.Timeouts.Total)))
	s := c.Server
	row("clients", fmt.Sprintf("body up to %v, head up to %v, connections %s, per address %s",
		s.MaxBodySize, s.MaxHeaderSize, count(s.MaxConnections), count(s.MaxConnectionsPerIP)))
	row("", fmt.Sprintf("head within %s, body within %s, idle %s, one write %s",
		orNone(s.HeaderTimeout), orNone(s.BodyTimeout), orNone(s.IdleTimeout), orNone(s.WriteTimeout)))
	row("", streamText(s))
	row("shutdown", fmt.Sprintf("%v after not ready, then open requests have %s", s.ShutdownDelay, orNone(s.ShutdownTimeout)))
	row("proxies", c.proxiesText())
	row("cors", c.corsText())
	c.describeAuth(row)
	row("rate limit", c.limitsText())
	c.describeRedis(row)
	row("admin", c.adminText())
	c.describeHook(row)
	row("metrics", c.metricsText())
	row("log", fmt.Sprintf("%s, %s, access log %s", c.Log.Level, c.Log.Format, onOff(c.Log.Access)))
}

func (c *Config) listenText() string {
	mode := ""
	if isUnix(c.Listen) {
		mode = fmt.Sprintf("mode %04o, ", c.ListenMode)
	}
	transport := "plain HTTP"
	if c.TLS.CertFile != "" {
		transport = fmt.Sprintf("TLS %s or newer, %s", c.TLS.MinVersion, c.TLS.CertFile)
	}
	if c.TLS.ClientCAFile != "" {
		transport += ", clients need a certificate signed by " + c.TLS.ClientCAFile
	}
	return fmt.Sprintf("%s (%s%s)", c.Listen, mode, transport)
}

func streamText(s Server) string {
	ping := "no comments into silent streams"
	if s.SSEPingInterval > 0 {
		ping = fmt.Sprintf("a comment into silent streams every %v", s.SSEPingInterval)
	}
	dir := "the system's temporary directory"
	if s.UploadDir != "" {
		dir = s.UploadDir
	}
	return fmt.Sprintf("%s, large uploads wait in %s", ping, dir)
}

func (c *Config) regionText() string {
	here := "none"
	if c.Region != "" {
		here = c.Region
	}
	if len(c.TrustedProxies) > 0 {
		here += ", or as " + c.RegionHeader + " says from a trusted proxy"
	}
	return here
}

// describeModels lists each model pattern with the backends that serve it.
func (c *Config) describeModels(row func(...string)) {
	const anyModel = "any model"
	pools := map[string][]Backend{}
	var order []string
	for _, b := range c.Backends {
		patterns := b.Models
		if len(patterns) == 0 {
			patterns = []string{anyModel}
		}
		for _, p := range patterns {
			if pools[p] == nil {
				order = append(order, p)
			}
			pools[p] = append(pools[p], b)
		}
	}
	label := "models"
	for _, p := range order {
		row(label, p)
		label = ""
		for _, b := range pools[p] {
			row("", "  -> "+b.Name, b.URL, backendText(b))
		}
	}
}

func backendText(b Backend) string {
	text := fmt.Sprintf("weight %d", b.Weight)
	if b.Engine != "" {
		text += ", " + b.Engine
	}
	if b.Region != "" {
		text += ", region " + b.Region
	}
	if b.MaxInFlight > 0 {
		text += fmt.Sprintf(", at most %d at a time", b.MaxInFlight)
	}
	if b.APIKey != "" {
		text += ", with a key of its own"
	}
	if b.ContinuousUsage {
		text += ", counts in every event"
	}
	if b.Drain {
		text += ", drains: no new requests"
	}
	return text
}

func (c *Config) describeRouting(row func(...string)) {
	label := "mapping"
	for _, from := range sortedKeys(c.Routing.ModelMapping) {
		row(label, from+" -> "+c.Routing.ModelMapping[from])
		label = ""
	}
	if retry := c.Routing.Retry; retry.Enabled && retry.MaxRetries > 0 {
		row("retry", fmt.Sprintf("up to %d times; wait %v doubling to %v before the same backend again",
			retry.MaxRetries, retry.InitialWait, retry.MaxWait))
	} else {
		row("retry", "off")
	}
	label = "fallback"
	for _, f := range c.Routing.Fallback {
		models := ""
		if len(f.Models) > 0 {
			models = " (" + strings.Join(f.Models, ", ") + ")"
		}
		row(label, "after "+c.nameOf(f.Primary)+models+": "+c.names(f.Next))
		label = ""
	}
}

func (c *Config) names(urls []string) string {
	out := make([]string, len(urls))
	for i, u := range urls {
		out[i] = c.nameOf(u)
	}
	return strings.Join(out, ", ")
}

func (c *Config) nameOf(u string) string {
	for _, b := range c.Backends {
		if b.URL == u {
			return b.Name
		}
	}
	return u
}

func (c *Config) healthText() string {
	h := c.HealthCheck
	start := "no slow start"
	if h.SlowStart > 0 {
		start = fmt.Sprintf("slow start %v", h.SlowStart)
	}
	if !h.Enabled {
		return "no checks; failures of requests count, " + start
	}
	return fmt.Sprintf("GET %s every %v, timeout %v, out after %d failures, back after %d successes, %s",
		h.Path, h.Interval, h.Timeout, h.UnhealthyThreshold, h.HealthyThreshold, start)
}

func (c *Config) proxiesText() string {
	if len(c.TrustedProxies) == 0 {
		return "none trusted"
	}
	out := make([]string, len(c.TrustedProxies))
	for i, p := range c.TrustedProxies {
		out[i] = p.String()
	}
	return "trusted: " + strings.Join(out, ", ")
}

func (c *Config) corsText() string {
	if !c.CORS.Enabled {
		return "off"
	}
	return "for " + strings.Join(c.CORS.AllowedOrigins, ", ")
}

// describeHook leaves out the query of the URL: it may be a token.
func (c *Config) describeHook(row func(...string)) {
	h := c.UsageHook
	u, err := url.Parse(h.URL)
	if !h.Enabled || err != nil {
		row("usage hook", "off")
		return
	}
	signed := "not signed"
	if h.Secret != "" {
		signed = "signed"
	}
	failing := "refused"
	if h.OnJournalError == "allow" {
		failing = "served, and may never be billed"
	}
	row("usage hook", fmt.Sprintf("POST %s://%s%s, %s, timeout %v, %d retries", u.Scheme, u.Host, u.EscapedPath(), signed, h.Timeout, h.Retry))
	row("", fmt.Sprintf("batches of up to %d reports, %v, collected for %v", h.MaxEvents, h.MaxBytes, h.MaxAge))
	row("", fmt.Sprintf("kept in %s until delivered and %v longer, up to %v, fsync: %s", c.DataDir, h.Retention, h.MaxSize, h.Sync))
	row("", "what comes while that cannot be written is "+failing)
}

func (c *Config) metricsText() string {
	switch m := c.Metrics; {
	case !m.Enabled:
		return "off"
	case m.Listen != "":
		return m.Path + " on " + m.Listen
	case m.Public:
		return m.Path + " for anyone"
	default:
		return m.Path + " for loopback and private addresses"
	}
}

func orNone(d Duration) string {
	if d == 0 {
		return "no limit"
	}
	return d.String()
}

func count(n int) string {
	if n == 0 {
		return "no limit"
	}
	return strconv.Itoa(n)
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
