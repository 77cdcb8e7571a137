package admin

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/llmproxy/llmproxy/pkg/admit"
	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/openai"
)

// usedKey is a key with what it has used.
type usedKey struct {
	keystore.Public
	Use admit.Use `json:"use"`
}

// madeKey is a key as it is shown once, to who made it.
type madeKey struct {
	Key string `json:"key"`
	keystore.Public
}

func (a *API) createKey(c *call) *openai.Error {
	spec, err := keystore.ParseSpec(c.body)
	if err != nil {
		return badSpec(err)
	}
	secret, err := auth.Mint()
	if err != nil {
		return a.broken(c, "create_key", err, "key_not_made", "No key was made.")
	}
	k, err := spec.Apply(auth.Key{Hash: auth.Hash(secret), Last4: secret[len(secret)-4:]})
	if err != nil {
		return badSpec(err)
	}
	if fault := a.keep(c, k); fault != nil {
		return fault
	}
	a.audit(c, "create_key", "id", k.ID().String(), "name", k.Name, "fields", fields(c.body))
	c.ctx.Response.Header.Set(fasthttp.HeaderLocation, "/admin/api-keys/"+k.ID().String())
	return c.write(http.StatusCreated, madeKey{Key: secret, Public: keystore.View(k)})
}

// keep stores a key and puts it in force. One that cannot be put in force is taken
// out again: nobody has it.
func (a *API) keep(c *call, k *auth.Key) *openai.Error {
	if err := a.o.Store.Add(k); err != nil {
		return a.notStored(c, "create_key", k.ID(), err)
	}
	if err := a.o.Changed(); err != nil {
		_, undone := a.o.Store.Remove(k.ID())
		return a.broken(c, "create_key", errors.Join(err, undone), "keys_not_in_force", "The key was not made.", "id", k.ID().String())
	}
	return nil
}

func (a *API) showKey(c *call) *openai.Error {
	ring, k, fault := a.named(c)
	if fault != nil {
		return fault
	}
	return c.write(http.StatusOK, a.withUse(ring, k))
}

func (a *API) withUse(ring *auth.Keyring, k *auth.Key) usedKey {
	return usedKey{Public: keystore.View(k), Use: a.o.Use(ring, k)}
}

func (a *API) patchKey(c *call) *openai.Error {
	spec, err := keystore.ParseSpec(c.body)
	if err != nil {
		return badSpec(err)
	}
	k, fault := a.change(c, "change_key", func(id auth.ID) (*auth.Key, error) {
		return a.o.Store.Replace(id, func(k auth.Key) (*auth.Key, error) { return spec.Apply(k) })
	})
	if fault != nil {
		return fault
	}
	a.audit(c, "change_key", "id", k.ID().String(), "name", k.Name, "fields", fields(c.body))
	return c.write(http.StatusOK, keystore.View(k))
}

func (a *API) deleteKey(c *call) *openai.Error {
	k, fault := a.change(c, "delete_key", a.o.Store.Remove)
	if fault != nil {
		return fault
	}
	a.audit(c, "delete_key", "id", k.ID().String(), "name", k.Name)
	c.ctx.SetStatusCode(http.StatusNoContent)
	return nil
}

// change does something to a stored key and puts it in force. A key that is in the
// store but not in force yet, because another process has just made it, is found; so
// is one the other way round, whose removal could not be put in force.
func (a *API) change(c *call, action string, do func(auth.ID) (*auth.Key, error)) (*auth.Key, *openai.Error) {
	id, ok := keyID(c.arg)
	if !ok {
		return nil, keyNotFound(c.arg)
	}
	known, inForce := a.o.Keyring().Get(id)
	if inForce && known.Source == auth.Configured {
		return nil, refusal(http.StatusConflict, "", "key_is_configured",
			"This key is in the configuration file. Change it there, under api_keys; the gateway reads the file again by itself.")
	}
	k, err := do(id)
	if err == nil || inForce && errors.Is(err, keystore.ErrNotFound) {
		if err := a.o.Changed(); err != nil {
			return nil, a.broken(c, action, err, "keys_not_in_force",
				"The change is in "+a.o.Store.Place()+", but NOT in force: the key works as before. Send the request again when the cause is mended.",
				"id", id.String())
		}
	}
	if err != nil {
		return nil, a.notStored(c, action, id, err)
	}
	return k, nil
}

func (a *API) resetQuota(c *call) *openai.Error {
	ring, k, fault := a.named(c)
	if fault != nil {
		return fault
	}
	about := []any{"id", k.ID().String(), "name", k.Name}
	begun, err := a.o.Reset(k.ID())
	if begun {
		a.audit(c, "reset_quota", about...)
	}
	switch {
	case err == nil:
		return c.write(http.StatusOK, a.withUse(ring, k))
	case begun:
		return a.broken(c, "reset_quota", err, "quota_reset_not_kept",
			"The quota is reset and the new period in force, but it is NOT on the disk yet: it is lost if the gateway ends before it is. The gateway tries again by itself; do not send the request again.", about...)
	}
	return a.broken(c, "reset_quota", err, "quota_not_reset", "Send the request again when the cause is mended.", about...)
}

// named returns the key in force that the path names, and the ring that it is of.
func (a *API) named(c *call) (*auth.Keyring, *auth.Key, *openai.Error) {
	ring := a.o.Keyring()
	if id, ok := keyID(c.arg); ok {
		if k, ok := ring.Get(id); ok {
			return ring, k, nil
		}
		if stored := a.o.Cluster().Keys; stored != nil && stored.Source != "redis" {
			return nil, nil, a.notLoaded(stored)
		}
	}
	return nil, nil, keyNotFound(c.arg)
}

// keyID reads an id in its one spelling.
func keyID(s string) (auth.ID, bool) {
	id, err := auth.ParseID(s)
	return id, err == nil && id.String() == s
}

// fields are the names in the body, which its parser knows, for the log.
func fields(body []byte) []string {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(body, &object); err != nil {
		return nil
	}
	return slices.Sorted(maps.Keys(object))
}

func keyNotFound(id string) *openai.Error {
	if _, ok := keyID(id); !ok { // perhaps it is the key itself
		return refusal(http.StatusNotFound, "", "key_not_found",
			"This is no key's id, which has 16 hexadecimal digits. GET /admin/api-keys lists the keys with their ids.")
	}
	return refusal(http.StatusNotFound, "", "key_not_found",
		"There is no key "+quote(id)+". GET /admin/api-keys lists them with their ids.")
}

func badSpec(err error) *openai.Error {
	if bad, ok := errors.AsType[*keystore.SpecError](err); ok {
		return openai.BadRequest(bad.Field, bad.Message)
	}
	return openai.BadRequest("", err.Error())
}

// askAgain is when a store that cannot be asked may be there again.
const askAgain = time.Second

// notLoaded is why the store's keys cannot be told of.
func (a *API) notLoaded(stored *SharedKeys) *openai.Error {
	return &openai.Error{
		Status: http.StatusServiceUnavailable, Type: "server_error", Code: "key_store_unavailable", RetryAfter: askAgain,
		Message: "The keys in " + stored.Place + " are not known here yet: " + stored.Error + ". Another gateway may know them.",
	}
}

// notStored is why a change of the store failed.
func (a *API) notStored(c *call, action string, id auth.ID, err error) *openai.Error {
	if errors.Is(err, keystore.ErrNotFound) {
		return keyNotFound(id.String())
	}
	if bad, ok := errors.AsType[*keystore.SpecError](err); ok {
		return openai.BadRequest(bad.Field, bad.Message)
	}
	place := a.o.Store.Place()
	if errors.Is(err, keystore.ErrAway) {
		fault := a.broken(c, action, err, "key_store_unavailable",
			"The keys in "+place+" may be changed all the same, or later: look at them when it is there again, before you repeat the request.", "id", id.String())
		fault.RetryAfter = askAgain
		return fault
	}
	return a.broken(c, action, err, "keys_not_stored",
		"Look at "+place+", then send the request again.", "id", id.String())
}
