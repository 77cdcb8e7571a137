package admin_test

import (
	"fmt"
	"testing"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/auth"
)

// BenchmarkList is a page of a list of 100,000 keys.
func BenchmarkList(b *testing.B) {
	s := newSite(b)
	keys := make([]*auth.Key, 100_000)
	for i := range keys {
		keys[i] = &auth.Key{Hash: auth.Hash(fmt.Sprint(i)), Name: fmt.Sprintf("key %d", i), UserID: fmt.Sprintf("user %d", i%1000)}
	}
	ring, err := auth.NewKeyring(keys, auth.Defaults{})
	if err != nil {
		b.Fatal(err)
	}
	s.ring.Store(ring)
	for name, query := range map[string]string{"100": "", "1000": "?limit=1000", "user": "?user_id=user+7", "middle": "?after=8000000000000000"} {
		b.Run(name, func(b *testing.B) {
			var r fasthttp.Request
			r.Header.Set("Authorization", "Bearer "+token)
			r.SetRequestURI("/admin/api-keys" + query)
			var ctx fasthttp.RequestCtx
			ctx.Init(&r, nil, nil)
			for b.Loop() {
				if s.api.Serve(&ctx); ctx.Response.StatusCode() != 200 {
					b.Fatal(ctx.Response.String())
				}
			}
		})
	}
}
