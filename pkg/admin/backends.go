package admin

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/route"
)

// backendView is a backend as the operator sees it.
type backendView struct {
	Name      string   `json:"name"`
	URL       string   `json:"url"`
	Healthy   bool     `json:"healthy"`  // what the health checks say
	Ejected   bool     `json:"ejected"`  // out of use after failures
	Draining  bool     `json:"draining"` // gets no new requests, by the configuration or this API
	Drained   bool     `json:"drained"`  // and has none any more: the engine may be stopped
	InFlight  int64    `json:"in_flight"`
	LatencyMS *float64 `json:"latency_ms"` // to a stream's first event; null: not known
	Weight    int      `json:"weight"`
	Models    []string `json:"models"` // empty: any
	Region    string   `json:"region"`
}

func (a *API) viewBackend(b *route.Backend) backendView {
	draining, inFlight := b.Drained(), b.InFlight() // in this order: nobody enters afterwards
	v := backendView{
		Name: b.Name, URL: bareURL(b.URL), Healthy: b.Healthy(), Ejected: b.Ejected(),
		Draining: draining, Drained: draining && inFlight == 0, InFlight: inFlight,
		Weight: b.Weight, Models: append([]string{}, b.Models...), Region: b.Region,
	}
	if d, known := a.o.Latency(b); known {
		ms := float64(d) / float64(time.Millisecond)
		v.LatencyMS = &ms
	}
	return v
}

// bareURL leaves out what may be secret: user, password and query.
func bareURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

func (a *API) listBackends(c *call) *openai.Error {
	views := []backendView{}
	for _, b := range a.o.Backends() {
		views = append(views, a.viewBackend(b))
	}
	return c.write(http.StatusOK, struct {
		Data []backendView `json:"data"`
	}{views})
}

func (a *API) drain(c *call) *openai.Error   { return a.setDrain(c, true) }
func (a *API) undrain(c *call) *openai.Error { return a.setDrain(c, false) }

// setDrain leaves alone what the configuration says: a backend that drains by it
// goes on draining.
func (a *API) setDrain(c *call, drain bool) *openai.Error {
	backends := a.o.Backends()
	i := slices.IndexFunc(backends, func(b *route.Backend) bool { return b.Name == c.arg })
	if i < 0 {
		return refusal(http.StatusNotFound, "", "backend_not_found",
			fmt.Sprintf("There is no backend %s. GET /admin/backends lists them.", quote(c.arg)))
	}
	b := backends[i]
	if !drain && b.Draining {
		return refusal(http.StatusConflict, "", "backend_is_configured",
			"The configuration file drains this backend. Remove drain: true there.")
	}
	action := "undrain_backend"
	if drain {
		action = "drain_backend"
	}
	b.SetDrain(drain)
	a.audit(c, action, "name", b.Name)
	return c.write(http.StatusOK, a.viewBackend(b))
}
