package admin_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

// served are all paths there are, as a reader would write them down.
var served = regexp.MustCompile(`^/admin/(api-keys(/[^/]+(/reset-quota)?)?|backends(/.+/(un)?drain)?|config|reload)$`)

// FuzzServe sends any path and query with the token: nothing panics, every answer
// is JSON, and what is none of the paths as they stand is 404.
func FuzzServe(f *testing.F) {
	for _, target := range []string{
		"/admin/api-keys?limit=5&after=0123456789abcdef&status=active", "/admin/api-keys/0123456789abcdef", "/admin/api-keys/../config",
		"/admin/api-keys?name=%E5%AE%A2&source=stored", "/admin/backends/gpu-1:8000/drain", "/admin/backends/a/b/undrain", "/admin/config#x",
		"//admin/config", "http://h/admin/reload", "/admin/%63onfig", "/admin/config?;", "*", "",
	} {
		for method := range methods {
			f.Add(uint8(method), target, "{}")
		}
	}
	s := newSite(f)
	f.Fuzz(func(t *testing.T, method uint8, target, body string) {
		var r fasthttp.Request
		r.Header.SetMethod(methods[int(method)%len(methods)])
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.SetContentType("application/json")
		r.SetRequestURI(target)
		r.SetBodyString(body)
		var ctx fasthttp.RequestCtx
		ctx.Init(&r, nil, nil)
		s.api.Serve(&ctx)
		answer := &ctx.Response
		path, status := string(ctx.URI().PathOriginal()), answer.StatusCode()
		if status != 204 && !json.Valid(answer.Body()) {
			t.Fatalf("%q: %d %q", target, status, answer.Body())
		}
		tricks := strings.ContainsAny(path, `%;\`) || strings.Contains(path, "/.") && regexp.MustCompile(`/\.\.?(/|$)`).MatchString(path)
		if status != 404 && (tricks || !served.MatchString(path)) || status == 401 || status >= 500 {
			t.Fatalf("%q: %d %s", target, status, answer.Body())
		}
	})
}

// methods that leave nothing behind.
var methods = []string{"GET", "HEAD", "PATCH", "DELETE", "OPTIONS", "PUT"}
