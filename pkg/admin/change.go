package admin

import (
	"errors"
	"log/slog"
	"net/http"
	"slices"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/openai"
)

// audit logs a change that is in force: who asked for it and of what, never the
// values, which may be secret.
func (a *API) audit(c *call, action string, about ...any) {
	a.o.Log.Info("admin", append([]any{"action", action}, a.origin(c, about)...)...)
}

// broken logs a change that could not be made, and tells the operator what to do.
func (a *API) broken(c *call, action string, err error, code, remedy string, about ...any) *openai.Error {
	about = append(about, "error", err)
	a.o.Log.Error("cannot do what the admin API was asked for", append([]any{"action", action}, a.origin(c, about)...)...)
	return &openai.Error{
		Status: http.StatusServiceUnavailable, Type: "server_error", Code: code,
		Message: err.Error() + ". " + remedy,
	}
}

// origin adds where a request came from.
func (a *API) origin(c *call, about []any) []any {
	if ip := a.o.Client(c.ctx); ip.IsValid() {
		about = append(about, slog.String("client", ip.String()))
	}
	if id := requestID(c.ctx); id != "" {
		about = append(about, slog.String("request_id", id))
	}
	return about
}

// requestID is the id that the answer carries, else that of the request.
func requestID(ctx *fasthttp.RequestCtx) string {
	const name, most = "X-Request-Id", 100
	id := ctx.Response.Header.Peek(name)
	if len(id) == 0 {
		id = ctx.Request.Header.Peek(name)
	}
	return string(id[:min(len(id), most)])
}

func (a *API) showConfig(c *call) *openai.Error {
	b, err := a.o.Config()
	if err != nil {
		return a.broken(c, "show_config", err, "config_unavailable", "The log may tell more.")
	}
	c.ctx.SetContentType("application/json")
	c.ctx.SetBody(append(slices.Clip(b), '\n'))
	return nil
}

func (a *API) reload(c *call) *openai.Error {
	err := a.o.Reload()
	switch {
	case errors.Is(err, ErrShuttingDown):
		return openai.ShuttingDown()
	case err != nil:
		return refusal(http.StatusUnprocessableEntity, "", "configuration_refused",
			"The configuration before stays in force. "+err.Error())
	}
	a.audit(c, "reload")
	return c.write(http.StatusOK, struct {
		Reloaded bool `json:"reloaded"`
	}{true})
}
