package admin

import (
	"bytes"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/llmproxy/llmproxy/pkg/auth"
	"github.com/llmproxy/llmproxy/pkg/keystore"
	"github.com/llmproxy/llmproxy/pkg/openai"
)

const (
	defaultPage = 100
	maxPage     = 1000
)

// page says which keys a list has: the first ones, in the order of their ids, for
// which all of wants are true. By that order who deletes a whole page can still go
// on behind its last key.
type page struct {
	limit      int
	configured bool // only keys of the configuration
	wants      []func(k *auth.Key) bool
}

func (a *API) listKeys(c *call) *openai.Error {
	p, fault := parsePage(c.query)
	if fault != nil {
		return fault
	}
	if stored := a.o.Cluster().Keys; stored != nil && stored.Source == "none" && !p.configured {
		return a.notLoaded(stored)
	}
	keys, more := p.of(a.o.Keyring().All())
	answer := struct {
		Data    []keystore.Public `json:"data"`
		HasMore bool              `json:"has_more"`
		Next    *string           `json:"next"` // for after=; null: there are no more
	}{Data: []keystore.Public{}, HasMore: more}
	for _, k := range keys {
		answer.Data = append(answer.Data, keystore.View(k))
	}
	if more {
		next := keys[len(keys)-1].ID().String()
		answer.Next = &next
	}
	return c.write(http.StatusOK, answer)
}

func parsePage(query url.Values) (p page, fault *openai.Error) {
	p.limit = defaultPage
	for name, values := range query {
		value := values[0]
		switch name {
		case "limit":
			n, err := strconv.Atoi(value)
			if err != nil || n < 1 || n > maxPage {
				return p, openai.BadRequest(name, "limit is a number from 1 to 1000.")
			}
			p.limit = n
		case "after":
			after, err := auth.ParseID(value)
			if err != nil {
				return p, openai.BadRequest(name, "after is the id of a key, as next of the page before has it.")
			}
			p.want(func(k *auth.Key) bool { return compareIDs(k.ID(), after) > 0 })
		case "user_id":
			p.want(func(k *auth.Key) bool { return k.UserID == value })
		case "name":
			p.want(func(k *auth.Key) bool { return strings.Contains(k.Name, value) })
		case "status":
			if value != "active" && value != "disabled" {
				return p, openai.BadRequest(name, "status is active or disabled.")
			}
			p.want(func(k *auth.Key) bool { return k.Disabled == (value == "disabled") })
		case "source":
			source, ok := auth.ParseSource(value)
			if !ok {
				return p, openai.BadRequest(name, "source is config, file or redis.")
			}
			p.configured = source == auth.Configured
			p.want(func(k *auth.Key) bool { return k.Source == source })
		}
	}
	return p, nil
}

func (p *page) want(f func(k *auth.Key) bool) { p.wants = append(p.wants, f) }

// of takes time by the number of keys, and memory by the size of the page.
func (p *page) of(keys []*auth.Key) (found []*auth.Key, more bool) {
	var last *auth.Key // when set, keys behind it are not on the page
	for _, k := range keys {
		if last != nil && compareKeys(k, last) > 0 || !p.wanted(k) {
			continue
		}
		if found = append(found, k); len(found) == 2*(p.limit+1) {
			slices.SortFunc(found, compareKeys)
			found = found[:p.limit+1]
			last = found[p.limit]
		}
	}
	slices.SortFunc(found, compareKeys)
	if len(found) > p.limit {
		return found[:p.limit], true
	}
	return found, false
}

func (p *page) wanted(k *auth.Key) bool {
	for _, f := range p.wants {
		if !f(k) {
			return false
		}
	}
	return true
}

func compareKeys(x, y *auth.Key) int { return compareIDs(x.ID(), y.ID()) }

func compareIDs(x, y auth.ID) int { return bytes.Compare(x[:], y[:]) }
