package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/openai"
)

// resource is one row of the table of paths. A "{}" in the path stands for an
// argument of one byte or more.
type resource struct {
	path    string
	slashes bool // the argument may have them, as the name of a backend may
	methods []method
}

type method struct {
	name   string
	run    func(a *API, c *call) *openai.Error
	params []string // that the query may have
	body   bool     // takes JSON; the others take no body
}

var resources = [...]resource{
	{path: "/admin/api-keys", methods: []method{
		{name: "GET", run: (*API).listKeys, params: []string{"limit", "after", "user_id", "status", "source", "name"}},
		{name: "POST", run: (*API).createKey, body: true},
	}},
	{path: "/admin/api-keys/{}/reset-quota", methods: []method{{name: "POST", run: (*API).resetQuota}}},
	{path: "/admin/api-keys/{}", methods: []method{
		{name: "GET", run: (*API).showKey},
		{name: "PATCH", run: (*API).patchKey, body: true},
		{name: "DELETE", run: (*API).deleteKey},
	}},
	{path: "/admin/backends", methods: []method{{name: "GET", run: (*API).listBackends}}},
	{path: "/admin/backends/{}/drain", slashes: true, methods: []method{{name: "POST", run: (*API).drain}}},
	{path: "/admin/backends/{}/undrain", slashes: true, methods: []method{{name: "POST", run: (*API).undrain}}},
	{path: "/admin/cluster", methods: []method{{name: "GET", run: (*API).showCluster}}},
	{path: "/admin/config", methods: []method{{name: "GET", run: (*API).showConfig}}},
	{path: "/admin/reload", methods: []method{{name: "POST", run: (*API).reload}}},
}

// call is one request of an operator.
type call struct {
	ctx   *fasthttp.RequestCtx
	arg   string // what stands for the path's "{}"
	query url.Values
	body  []byte // the server's
}

// serve finds what a request asks for and runs it.
func (a *API) serve(c *call) *openai.Error {
	h := &c.ctx.Request.Header
	path, name := string(c.ctx.URI().PathOriginal()), string(h.Method())
	r, arg := find(path)
	if r == nil || bytes.IndexByte(h.RequestURI(), '#') >= 0 {
		return notFound(path)
	}
	c.arg = arg
	if name == "HEAD" {
		name = "GET" // the server leaves the body out
	}
	i := slices.IndexFunc(r.methods, func(m method) bool { return m.name == name })
	if i < 0 {
		c.ctx.Response.Header.Set(fasthttp.HeaderAllow, r.allow())
		if name == "OPTIONS" {
			c.ctx.SetStatusCode(http.StatusNoContent)
			return nil
		}
		return openai.MethodNotAllowed(name, path)
	}
	m := &r.methods[i]
	var err *openai.Error
	if c.query, err = parseQuery(c.ctx.URI().QueryString(), m.params); err != nil {
		return err
	}
	if err := c.readBody(m.body); err != nil {
		return err
	}
	return m.run(a, c)
}

// find compares the bytes of a path as they came. What one reader may take for
// another path than the next does is no path here.
func find(path string) (r *resource, arg string) {
	if !plain(path) {
		return nil, ""
	}
	for i := range resources {
		r := &resources[i]
		before, after, takes := strings.Cut(r.path, "{}")
		if !takes {
			if path == r.path {
				return r, ""
			}
			continue
		}
		rest, ok := strings.CutPrefix(path, before)
		if !ok {
			continue
		}
		if arg, ok := strings.CutSuffix(rest, after); ok && arg != "" && (r.slashes || !strings.Contains(arg, "/")) {
			return r, arg
		}
	}
	return nil, ""
}

// plain tells whether a path has nothing that is decoded, resolved or cut off
// somewhere: %2F, //, dot segments, ;parameters, backslashes, control characters.
func plain(path string) bool {
	if strings.ContainsAny(path, `%\;#?`) || strings.Contains(path, "//") || !utf8.ValidString(path) {
		return false
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	return !strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

func (r *resource) allow() string {
	var all []string
	for _, m := range r.methods {
		all = append(all, m.name)
		if m.name == "GET" {
			all = append(all, "HEAD")
		}
	}
	return strings.Join(append(all, "OPTIONS"), ", ")
}

// parseQuery reads a query in which each of the known parameters may stand once,
// and no other: a filter that is misspelt must not list everything.
func parseQuery(raw []byte, known []string) (url.Values, *openai.Error) {
	values, err := url.ParseQuery(string(raw))
	if err != nil {
		return nil, openai.BadRequest("", "The query cannot be read: write it as name=value&name=value, with % and two hex digits for other characters.")
	}
	for name, all := range values {
		switch {
		case !slices.Contains(known, name) && len(known) == 0:
			return nil, openai.BadRequest("", "This endpoint takes no query parameters.")
		case !slices.Contains(known, name):
			return nil, openai.BadRequest("", quote(name)+" is no query parameter here. There are: "+strings.Join(known, ", ")+".")
		case len(all) > 1:
			return nil, openai.BadRequest(name, "The query parameter stands there twice.")
		case !utf8.ValidString(all[0]):
			return nil, openai.BadRequest(name, "The query parameter is not UTF-8.")
		}
	}
	return values, nil
}

// readBody wants a body of JSON, or none.
func (c *call) readBody(wanted bool) *openai.Error {
	h := &c.ctx.Request.Header
	body := c.ctx.PostBody()
	empty := len(bytes.TrimSpace(body)) == 0
	switch {
	case len(body) > MaxBody:
		return openai.BodyTooLarge(MaxBody)
	case !wanted && !empty && !bytes.Equal(bytes.TrimSpace(body), []byte("{}")): // some clients always send an object
		return openai.BadRequest("", "This endpoint takes no body.")
	case wanted && empty:
		return openai.BadRequest("", "Send the fields of the key as a JSON object in the body.")
	case wanted && !isPlainJSON(h):
		return openai.UnsupportedMedia()
	}
	c.body = body
	return nil
}

func isPlainJSON(h *fasthttp.RequestHeader) bool {
	kind, _, _ := bytes.Cut(h.ContentType(), []byte(";"))
	encoding := h.Peek(fasthttp.HeaderContentEncoding)
	return bytes.EqualFold(bytes.TrimSpace(kind), []byte("application/json")) &&
		(len(encoding) == 0 || bytes.EqualFold(encoding, []byte("identity")))
}

// write answers with v as JSON.
func (c *call) write(status int, v any) *openai.Error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("BUG: an answer that is no JSON: %v", err))
	}
	c.ctx.SetStatusCode(status)
	c.ctx.SetContentType("application/json")
	c.ctx.SetBody(b.Bytes())
	return nil
}

func notFound(path string) *openai.Error {
	return refusal(http.StatusNotFound, "", "unknown_url", "There is nothing at "+quote(path)+".")
}

// quote bounds what an answer or a line of the log repeats of a request.
func quote(s string) string {
	const most = 200
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return fmt.Sprintf("%q", s)
}
