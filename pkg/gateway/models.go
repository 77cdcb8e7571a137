package gateway

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-json"
	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/openai"
	"github.com/llmproxy/llmproxy/pkg/route"
)

// Models is the list of models over all backends, under the names that a
// client may use. It asks the engines when it is asked, at most every few
// seconds.
type Models struct {
	Table   *route.Table
	Mapping map[string]string
	// Fetch returns a backend's own GET /v1/models.
	Fetch func(ctx context.Context, b *route.Backend) ([]byte, error)

	mu   sync.Mutex // held while the engines are asked: one asks for all
	read time.Time
	list []card
}

// card is one entry of the list; what an engine says of a model beside its
// name is passed on.
type card map[string]json.RawMessage

const (
	modelsFresh   = 3 * time.Second
	modelsTimeout = 2 * time.Second
)

func (m *Models) current() []card {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.read) >= modelsFresh {
		m.list = m.ask()
		m.read = time.Now()
	}
	return m.list
}

// ask merges what the healthy backends say with what the configuration names.
func (m *Models) ask() []card {
	backends := m.Table.Backends()
	answers := make([][]card, len(backends))
	ctx, cancel := context.WithTimeout(context.Background(), modelsTimeout)
	defer cancel()
	var wg sync.WaitGroup
	for i, b := range backends {
		if !b.Healthy() {
			continue
		}
		wg.Go(func() {
			if body, err := m.Fetch(ctx, b); err == nil {
				answers[i] = parseCards(body)
			}
		})
	}
	wg.Wait()
	found := map[string]card{}
	for i, cards := range answers {
		for _, c := range cards {
			id := c.id()
			if _, known := found[id]; !known && m.serves(backends[i], id) {
				found[id] = c
			}
		}
	}
	m.addNamed(found)
	list := make([]card, 0, len(found))
	for _, id := range slices.Sorted(maps.Keys(found)) {
		list = append(list, found[id])
	}
	return list
}

// addNamed adds the names that only the configuration knows: those it maps,
// and those of backends that have no such list.
func (m *Models) addNamed(found map[string]card) {
	for _, name := range m.Table.Names() {
		r, ok := m.Table.Resolve(name)
		if _, known := found[name]; known || !ok || !slices.ContainsFunc(r.Pool.Backends(), (*route.Backend).Healthy) {
			continue
		}
		c := card{"object": json.RawMessage(`"model"`), "owned_by": json.RawMessage(`"llmproxy"`)}
		if own, ok := found[m.Mapping[name]]; ok {
			c = maps.Clone(own)
		}
		c["id"], _ = json.Marshal(name) // a string always marshals
		found[name] = c
	}
}

// serves tells whether requests for a model of that name can come to b.
func (m *Models) serves(b *route.Backend, id string) bool {
	r, ok := m.Table.Resolve(id)
	return ok && id != "" && slices.Contains(r.Pool.Backends(), b)
}

// parseCards reads an engine's list. An entry that is no object, or not UTF-8,
// is dropped; the others stay.
func parseCards(body []byte) []card {
	var l struct {
		Data []json.RawMessage `json:"data"`
	}
	if json.Unmarshal(body, &l) != nil {
		return nil
	}
	var cards []card
	for _, entry := range l.Data {
		var c card
		if utf8.Valid(entry) && json.Unmarshal(entry, &c) == nil {
			cards = append(cards, c)
		}
	}
	return cards
}

func (c card) id() string {
	var id string
	_ = json.Unmarshal(c["id"], &id) // an entry without a name is dropped by its empty one
	return id
}

func (g *Gateway) listModels(ctx *fasthttp.RequestCtx) {
	x := g.accept(ctx, nil)
	defer x.finish()
	if err := x.identify(ctx); err != nil {
		x.refuse(ctx, err)
		return
	}
	x.answer(ctx, struct {
		Object string `json:"object"`
		Data   []card `json:"data"`
	}{"list", x.usable(x.view.Models.current())})
}

// usable are those of the models that the key may use.
func (x *Exchange) usable(all []card) []card {
	ring, key := x.caller.ring, x.caller.key
	if key == nil || !ring.HasModels(key) {
		return all
	}
	usable := []card{} // not nil, which would be null to the client
	for _, c := range all {
		if ring.MayUse(key, c.id()) {
			usable = append(usable, c)
		}
	}
	return usable
}

func (g *Gateway) oneModel(ctx *fasthttp.RequestCtx) {
	x := g.accept(ctx, nil)
	defer x.finish()
	if err := x.identify(ctx); err != nil {
		x.refuse(ctx, err)
		return
	}
	id, _ := ctx.UserValue("id").(string)
	if name, err := url.PathUnescape(id); err == nil {
		id = name // the SDKs escape the slash in a name; the router matches raw paths
	}
	for _, c := range x.usable(x.view.Models.current()) {
		if c.id() == id {
			x.answer(ctx, c)
			return
		}
	}
	x.refuse(ctx, openai.ModelNotFound(id))
}

// answer is a JSON answer of the gateway's own.
func (x *Exchange) answer(ctx *fasthttp.RequestCtx, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		x.gateway.log.Error("BUG: cannot marshal", "error", err)
		x.refuse(ctx, openai.Internal())
		return
	}
	x.status, x.complete = fasthttp.StatusOK, true
	x.setHeader(&ctx.Response.Header)
	x.setLimits(&ctx.Response.Header)
	ctx.Response.Header.SetContentTypeBytes(contentJSON)
	ctx.SetBody(b)
}
