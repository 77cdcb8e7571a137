package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// check holds the finished configuration against the rules that no single
// value breaks by its type.
func (c *Config) check() {
	c.origin.checkTags(reflect.ValueOf(c).Elem(), "")
	c.checkListeners()
	c.checkServing()
	c.checkBackends()
	c.checkRouting()
	c.checkHealth()
	c.checkAuth()
	c.checkRedis()
	c.checkAdmin()
	c.checkHook()
	c.checkSeeing()
	if info, err := os.Stat(c.DataDir); (c.UsageHook.Enabled || c.Auth.Enabled) && err == nil && !info.IsDir() {
		c.origin.fault("data_dir", "%s is not a directory", c.DataDir)
	}
}

func (c *Config) checkServing() {
	r := c.origin.report
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		r.fault("tls", "needs both cert_file and key_file, or neither")
	} else if c.TLS.ClientCAFile != "" && c.TLS.CertFile == "" {
		r.fault("tls.client_ca_file", "needs cert_file and key_file: without TLS no client shows a certificate")
	}
	switch most := Size(1 << 30); {
	case c.Server.MaxBodySize == 0:
		r.fault("server.max_body_size", "must be at least 1 byte")
	case c.Server.MaxBodySize > most:
		r.fault("server.max_body_size", "must be at most %v: each body is held in memory as a whole", most)
	}
	if c.Server.MaxHeaderSize < 1<<10 {
		r.fault("server.max_header_size", "must be at least 1KiB")
	}
	if p := c.Server.SSEPingInterval; p > 0 && p < Duration(time.Second) {
		r.fault("server.sse_ping_interval", "must be at least 1s, or 0 to send none")
	}
	if dir := c.Server.UploadDir; dir != "" {
		if err := canWrite(dir); err != nil {
			r.fault("server.upload_dir", "cannot put files into %s: %v", dir, reason(err))
		}
	}
	if !isToken(c.RegionHeader) {
		r.fault("region_header", "%s is not the name of a header", quote(c.RegionHeader))
	}
	for i, h := range c.CORS.AllowedHeaders {
		if !isToken(h) {
			r.fault(index("cors.allowed_headers", i), "%s is not the name of a header", quote(h))
		}
	}
	for i, o := range c.CORS.AllowedOrigins {
		if o != "*" && !isOrigin(o) {
			r.fault(index("cors.allowed_origins", i), "%s is not an origin; write for example https://app.example.com, or *", quote(o))
		}
	}
	if c.CORS.Enabled && len(c.CORS.AllowedOrigins) == 0 {
		r.fault("cors.allowed_origins", "must name an origin when cors is enabled")
	}
	if c.CORS.AllowCredentials && slices.Contains(c.CORS.AllowedOrigins, "*") {
		r.fault("cors.allow_credentials", "cannot go with the origin *: browsers refuse it")
	}
}

func (c *Config) checkBackends() {
	r := c.origin.report
	if len(c.Backends) == 0 {
		r.fault("backends", "no backends; at least one is needed")
	}
	urls, names := map[string]string{}, map[string]string{}
	for i, b := range c.Backends {
		key := index("backends", i)
		if b.URL == "" {
			r.fault(key+".url", "must be set")
			continue
		}
		if message := badURL(b.URL, false); message != "" {
			r.fault(key+".url", "%s", message)
		} else if first, ok := urls[b.URL]; ok {
			r.fault(key+".url", "the same URL as %s", first)
		} else if first, ok := names[b.Name]; ok && b.Name != "" {
			remedy := ""
			if !r.has(key + ".name") {
				remedy = ", from the host of its url; set name"
			}
			r.fault(key+".name", "the same name as %s: %s%s", first, quote(b.Name), remedy)
		} else {
			urls[b.URL], names[b.Name] = key, key
		}
		if b.Name == "" && r.has(key+".name") {
			r.fault(key+".name", "must not be empty")
		}
		if b.Weight < 1 || b.Weight > 1000 {
			r.fault(key+".weight", "must be between 1 and 1000, not %d", b.Weight)
		}
		r.patterns(key+".models", b.Models)
		if b.CAFile != "" && !strings.HasPrefix(b.URL, "https://") {
			r.fault(key+".ca_file", "is of use with an https:// URL only")
		}
	}
}

func (c *Config) checkRouting() {
	r, retry := c.origin.report, c.Routing.Retry
	for from, to := range c.Routing.ModelMapping {
		key := child("routing.model_mapping", from)
		switch {
		case to == "":
			r.fault(key, "must not be empty")
		case len(c.Backends) > 0 && !c.served(to):
			r.fault(key, "no backend serves %s%s", quote(to), didYouMean(to, c.models()))
		}
	}
	if retry.InitialWait > retry.MaxWait {
		key := "routing.retry.initial_wait"
		if !r.has(key) {
			key = "routing.retry.max_wait"
		}
		r.fault(key, "initial_wait (%v) is longer than max_wait (%v)", retry.InitialWait, retry.MaxWait)
	}
	for i, f := range c.Routing.Fallback {
		c.checkFallback(f, index("routing.fallback", i))
	}
}

func (c *Config) checkFallback(f Fallback, key string) {
	r := c.origin.report
	c.checkKnown(key+".primary", f.Primary)
	if len(f.Next) == 0 {
		r.fault(key+".fallback", "must name at least one backend")
	}
	for i, u := range f.Next {
		at := index(key+".fallback", i)
		switch first := slices.Index(f.Next, u); {
		case u == f.Primary && u != "":
			r.fault(at, "is the primary itself")
		case first < i:
			r.fault(at, "the same URL as %s", index(key+".fallback", first))
		default:
			c.checkKnown(at, u)
		}
	}
	r.patterns(key+".models", f.Models)
}

// served tells whether some backend has the model.
func (c *Config) served(model string) bool {
	return slices.ContainsFunc(c.Backends, func(b Backend) bool {
		return len(b.Models) == 0 || slices.ContainsFunc(b.Models, func(p string) bool { return matches(p, model) })
	})
}

// models are the names and patterns of all backends.
func (c *Config) models() []string {
	var all []string
	for _, b := range c.Backends {
		all = append(all, b.Models...)
	}
	return all
}

// checkKnown wants the URL of a backend.
func (c *Config) checkKnown(key, u string) {
	r := c.origin.report
	if u == "" {
		r.fault(key, "must be set")
		return
	}
	var known []string
	for _, b := range c.Backends {
		switch {
		case b.URL == u:
			return
		case b.URL == "":
			return // u may have been meant for the backend whose URL is at fault
		case badURL(b.URL, false) == "": // a bad one may hold a password
			known = append(known, b.URL)
		}
	}
	if len(known) > 0 {
		r.fault(key, "%s is not among the backends%s", showURL(u), didYouMean(u, known))
	}
}

func (c *Config) checkHealth() {
	r, h := c.origin.report, c.HealthCheck
	r.path("health_check.path", h.Path)
	switch least := Duration(100 * time.Millisecond); {
	case h.Interval == 0:
		r.fault("health_check.interval", "must not be 0; to turn the checks off write enabled: false")
	case h.Interval < least:
		r.fault("health_check.interval", "must be at least %v: probes would keep the engines busy", least)
	}
	if h.Timeout == 0 {
		r.fault("health_check.timeout", "must not be 0: a probe without an answer would never end")
	}
	if h.UnhealthyThreshold < 1 {
		r.fault("health_check.unhealthy_threshold", "must be at least 1")
	}
	if h.HealthyThreshold < 1 {
		r.fault("health_check.healthy_threshold", "must be at least 1")
	}
}

func (c *Config) checkHook() {
	r, h := c.origin.report, c.UsageHook
	if h.URL != "" {
		if message := badURL(h.URL, true); message != "" {
			r.fault("usage_hook.url", "%s", message)
		}
	} else if h.Enabled {
		r.fault("usage_hook.url", "must be set when the hook is enabled")
	}
	if h.Timeout == 0 {
		r.fault("usage_hook.timeout", "must not be 0: a hook without an answer would hold up the rest")
	}
	if h.MaxEvents < 1 {
		r.fault("usage_hook.max_events", "must be at least 1")
	}
	if h.MaxBytes < 1<<10 {
		r.fault("usage_hook.max_bytes", "must be at least 1KiB")
	}
	if h.MaxAge == 0 {
		r.fault("usage_hook.max_age", "must not be 0; for small batches write a short time such as 10ms")
	}
	if h.MaxSize < 1<<20 {
		r.fault("usage_hook.max_size", "must be at least 1MiB: every request that is billed needs room in the journal")
	}
	c.checkHookSecret()
}

// checkHookSecret wants a key that nobody can guess. An empty one is a mistake
// where the hook is on: the file would look as if reports were signed.
func (c *Config) checkHookSecret() {
	const least = 16 // bytes; pkg/webhook wants them too
	r, h, key := c.origin.report, c.UsageHook, "usage_hook.secret"
	if !r.has(key) && r.has(key+"_file") {
		key += "_file"
	}
	secret := []byte(h.Secret)
	if text, ok := strings.CutPrefix(string(h.Secret), "whsec_"); ok {
		var err error
		if secret, err = base64.StdEncoding.DecodeString(text); err != nil {
			r.fault(key, "is not base64 after whsec_")
			return
		}
	}
	switch {
	case h.Secret == "" && (!h.Enabled || !r.has(key)):
	case h.Secret == "":
		r.fault(key, "is empty; to send reports without a signature remove it")
	case len(secret) < least:
		r.fault(key, "has %d bytes, fewer than %d: anybody could guess it; `openssl rand -base64 32` makes one, to put after whsec_", len(secret), least)
	}
}

func (c *Config) checkSeeing() {
	r, m := c.origin.report, c.Metrics
	r.path("metrics.path", m.Path)
	if m.Listen == "" && isTaken(m.Path) {
		r.fault("metrics.path", "%s is taken on the main listener", quote(m.Path))
	}
}

// isTaken tells whether the main listener answers path itself. All of /v1/, /v2/
// and /admin/ is kept for endpoints to come.
func isTaken(path string) bool {
	own := []string{
		"/", "/healthz", "/readyz", "/generate", "/generate_stream", "/tokenize", "/detokenize",
		"/classify", "/pooling", "/rerank", "/reranking", "/score", "/admin",
	}
	trees := []string{"/v1/", "/v2/", "/admin/"}
	return slices.Contains(own, path) || slices.ContainsFunc(trees, func(t string) bool { return strings.HasPrefix(path, t) })
}

func index(key string, i int) string { return fmt.Sprintf("%s[%d]", key, i) }

// checkTags wants each key with a list of words to hold one of them, and each
// key that is a limit, if it is written, to be one.
func (r *report) checkTags(section reflect.Value, key string) {
	for _, f := range reflect.VisibleFields(section.Type()) {
		tag := f.Tag.Get("yaml")
		if tag == "" {
			continue
		}
		v, path := section.FieldByIndex(f.Index), child(key, tag)
		switch {
		case isSection(f.Type):
			r.checkTags(v, path)
		case f.Type.Kind() == reflect.Slice && isSection(f.Type.Elem()):
			for i := range v.Len() {
				r.checkTags(v.Index(i), index(path, i))
			}
		default:
			right := words(f)
			if value := v.String(); right != nil && !slices.Contains(right, value) {
				right = slices.DeleteFunc(right, func(w string) bool { return w == "" })
				r.fault(path, "%s is not one of %s%s", quote(value), strings.Join(right, ", "), didYouMean(value, right))
			}
			if most := limitOf(f); most > 0 && r.has(path) {
				r.checkLimit(path, v.Int(), most)
			}
		}
	}
}

// checkLimit wants a limit to let something pass: 0 would mean all to some and
// nothing to others.
func (r *report) checkLimit(key string, n, most int64) {
	remedy := "for no limit remove it"
	if strings.HasPrefix(key, "api_keys[") {
		remedy = "for the default remove it, to refuse the key write status: disabled"
	}
	switch {
	case n == 0:
		r.fault(key, "must not be 0; %s", remedy)
	case n > most:
		r.fault(key, "must be at most %d; %s", most, remedy)
	}
}

// canWrite tells whether files can be made in a directory.
func canWrite(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return errors.New("not a directory")
	}
	return unix.Access(dir, unix.W_OK|unix.X_OK)
}

// patterns wants no pattern to be empty: it would match nothing.
func (r *report) patterns(key string, patterns []string) {
	for i, p := range patterns {
		if p == "" {
			r.fault(index(key, i), "must not be empty")
		}
	}
}

func (r *report) path(key, p string) {
	if !strings.HasPrefix(p, "/") || strings.ContainsAny(p, "?# ") {
		r.fault(key, "%s is not a path; write for example /health", quote(p))
	}
}
