package app_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// adminPlaces are where the admin API may be, and what the configuration says then.
func adminPlaces(t *testing.T) map[string]string {
	return map[string]string{"main port": "", "own port": fmt.Sprintf("admin: {listen: %s, token: %s}\n", freeAddr(t), attackToken)}
}

// operated is an attacked site whose operator has made a key. The admin API is on
// the main port, or on a port of its own.
type operated struct {
	*attackSite
	addr   string // of the admin API
	id     string // of the key
	listed string // what the API lists
}

func startOperated(t *testing.T, more string) *operated {
	t.Helper()
	s := &operated{attackSite: startAttacked(t, more)}
	s.addr = s.Addr
	if listen := between(more, "listen: ", ","); listen != "" {
		s.addr = listen
	}
	answer := s.admin(t, "POST /admin/api-keys", `{"name":"stored"}`, attackBearer+attackToken)
	if s.id = between(answer, `"id":"`, `"`); len(s.id) != 16 {
		t.Fatalf("no key was made: %s", answer)
	}
	s.listed = s.list(t)
	return s
}

// admin sends one request to the admin API, from an address that has not failed, and
// returns all that came back.
func (s *operated) admin(t *testing.T, line, body string, lines ...string) string {
	t.Helper()
	s.clients++
	c := dialFrom(t, s.addr, fmt.Sprintf("127.3.%d.%d", s.clients/200, 1+s.clients%200))
	defer c.Close()
	c.send(adminRequest(line, body, append(lines, "Connection: close")...))
	return c.ended()
}

func adminRequest(line, body string, lines ...string) string {
	return strings.Replace(post("PATH", body, lines...), "POST PATH", line, 1)
}

func (s *operated) list(t *testing.T) string {
	t.Helper()
	_, body, _ := strings.Cut(s.admin(t, "GET /admin/api-keys", "", attackBearer+attackToken), "\r\n\r\n")
	if !strings.Contains(body, s.id) || !strings.Contains(body, `"active"`) {
		t.Fatalf("the list of keys: %s", body)
	}
	return body
}

// unchanged fails the test when an attack has changed a key, or told of one.
func (s *operated) unchanged(t *testing.T, got string) {
	t.Helper()
	for _, word := range []string{`"last4"`, `"in_flight"`, `"backends"`, `"reloaded"`, attackToken} {
		if strings.Contains(got, word) {
			t.Errorf("the answer tells %s: %s", word, got)
		}
	}
	if now := s.list(t); now != s.listed {
		t.Errorf("the keys were\n%s\nand are\n%s", s.listed, now)
	}
}

// TestAttackAdminToken: the admin token is the whole token, in its header, and
// opens nothing else; no other key opens the admin API.
func TestAttackAdminToken(t *testing.T) {
	leavesNothing(t)
	basic := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+attackToken))
	for place, more := range adminPlaces(t) {
		t.Run(place, func(t *testing.T) {
			s := startOperated(t, more)
			for _, w := range []struct {
				name, query string
				lines       []string
			}{
				{"none", "", nil},
				{"a customer's key", "", []string{attackBearer + attackVictim}},
				{"a customer's key and the token", "", []string{attackBearer + attackVictim, "X-Api-Key: " + attackToken}},
				{"in the query", "?token=" + attackToken + "&api_key=" + attackToken + "&access_token=" + attackToken, nil},
				{"in a cookie", "", []string{"Cookie: token=" + attackToken + "; Authorization=Bearer " + attackToken}},
				{"Basic", "", []string{basic}},
				{"X-Api-Key", "", []string{"X-Api-Key: " + attackToken}},
				{"X-Admin-Token", "", []string{"X-Admin-Token: " + attackToken}},
				{"for a proxy", "", []string{"Proxy-Authorization: Bearer " + attackToken}},
				{"without a scheme", "", []string{"Authorization: " + attackToken}},
				{"a prefix", "", []string{attackBearer + attackToken[:len(attackToken)-1]}},
				{"more", "", []string{attackBearer + attackToken + "x"}},
				{"another case", "", []string{attackBearer + strings.ToUpper(attackToken)}},
				{"empty", "", []string{"Authorization: Bearer "}},
				{"two", "", []string{attackBearer + attackToken + ", Bearer x"}},
			} {
				for _, line := range []string{
					"GET /admin/api-keys" + w.query, "POST /admin/api-keys" + w.query, "DELETE /admin/api-keys/" + s.id + w.query,
					"GET /admin/config" + w.query, "POST /admin/reload" + w.query, "GET /admin/nothing" + w.query, "OPTIONS /admin/config" + w.query,
				} {
					got := s.admin(t, line, "", w.lines...)
					if !strings.HasPrefix(got, "HTTP/1.1 401 ") {
						t.Errorf("%s, %s: %s", w.name, line, got)
					}
					s.unchanged(t, got)
				}
			}
			quiet(t, s.Gateway)
		})
	}
}

// TestAttackAdminPaths: the admin API has one spelling of each path. Who sends the
// token to another gets nothing done, and who sends none learns of no path.
func TestAttackAdminPaths(t *testing.T) {
	leavesNothing(t)
	for place, more := range adminPlaces(t) {
		t.Run(place, func(t *testing.T) {
			s := startOperated(t, more)
			for _, path := range []string{
				"/admin", "/admin/", "//admin/api-keys/ID", "/admin//api-keys/ID", "/admin/api-keys//ID", "/admin/api-keys/ID/", "/admin/api-keys/ID//",
				"/./admin/api-keys/ID", "/admin/./api-keys/ID", "/admin/../admin/api-keys/ID", "/v1/../admin/api-keys/ID", "/admin/api-keys/x/../ID", "/admin/api-keys/ID/.", "/admin/api-keys/ID/..",
				"/%61dmin/api-keys/ID", "/admin%2Fapi-keys/ID", "/admin/%61pi-keys/ID", "/admin/api-keys/%49D", "/admin/api-keys%2fID", "/v1/%2e%2e/admin/api-keys/ID", "/v1/..%2fadmin/api-keys/ID", "/admin/api-keys/ID%00", "/admin/api-keys/ID%20", "/admin/api-keys/ID%3Fx", "/admin%252fapi-keys/ID",
				"/admin;x/api-keys/ID", "/admin/;/api-keys/ID", "/admin/api-keys;x/ID", "/admin/api-keys/ID;x", "/admin\\api-keys\\ID", "/admin/\\api-keys/ID", "/admin\\/api-keys/ID", "\\admin\\api-keys\\ID",
				"/admin./api-keys/ID", "/admin/api-keys./ID", "/admin/api-keys/ID.", "/admin/api-keys/ID...", "/Admin/api-keys/ID", "/ADMIN/API-KEYS/ID", "/admin/api_keys/ID", "/admin/api-keys/ID#x", "/admin/api-keys#/ID",
				"/admin/api-keys/ID/reset-quota/x", "/admin/api-keys/*", "/admin/api-keys/stored", "/admin/api-keys/ID,ID", "/api-keys/ID", "/v1/admin/api-keys/ID", "/admin/v1/api-keys/ID", "/admin/api-keys/\xc3\xa9", "admin/api-keys/ID", "*", "?/admin/api-keys/ID",
			} {
				path = strings.ReplaceAll(strings.ReplaceAll(path, "%49D", "%"+fmt.Sprintf("%x", s.id[0])+s.id[1:]), "ID", s.id)
				for _, method := range []string{"DELETE", "GET", "OPTIONS"} {
					for _, token := range []string{attackToken, attackVictim, ""} {
						got := s.admin(t, method+" "+path, "", attackBearer+token)
						status := got[:min(len(got), len("HTTP/1.1 404 "))]
						refused := status == "HTTP/1.1 404 " || status == "HTTP/1.1 400 " || status == "HTTP/1.1 401 " && token != attackToken ||
							status == "HTTP/1.1 204 " && method == "OPTIONS"
						if !refused {
							t.Errorf("%s %s with %q: %s", method, path, token, got)
						}
						if method == "DELETE" {
							s.unchanged(t, got)
						}
					}
				}
			}
			if got := s.admin(t, "DELETE /admin/api-keys/"+s.id, "", attackBearer+attackToken); !strings.HasPrefix(got, "HTTP/1.1 204 ") {
				t.Errorf("the right path: %s", got)
			}
			quiet(t, s.Gateway)
		})
	}
}

// TestAttackAdminMethods: no header and no parameter makes another method of a
// request, no Host another path, and no page of another origin is told anything.
func TestAttackAdminMethods(t *testing.T) {
	leavesNothing(t)
	for place, more := range adminPlaces(t) {
		t.Run(place, func(t *testing.T) {
			s := startOperated(t, more+"cors: {enabled: true, allowed_origins: [\"*\"]}\n")
			key := "/admin/api-keys/" + s.id
			for _, w := range []struct {
				line   string
				lines  []string
				status string
			}{
				{"POST " + key, []string{"X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Method-Override: DELETE"}, "405"},
				{"GET " + key + "?_method=DELETE", nil, "400"},
				{"GET /healthz", []string{"X-Original-URL: " + key, "X-Rewrite-URL: " + key, "X-HTTP-Method-Override: DELETE"}, ""},
				{"TRACE " + key, nil, "405"},
				{"PUT " + key, nil, "405"},
				{"CONNECT " + key, nil, "405"},
				{"delete " + key, nil, "405"},
				{"DELETE /admin/api-keys", nil, "405"},
				{"HEAD /admin/reload", nil, "405"},
				{"OPTIONS " + key, nil, "204"},
				{"DELETE /healthz", []string{"Host: gateway" + key}, "400"},
				{"DELETE http://gateway" + key + "/", nil, "404"},
				{"DELETE http://gateway/v1/.." + key, nil, "404"},
				{"DELETE http:" + key, nil, "400"},
				{"DELETE " + key + " HTTP/1.1\r\nX: y", []string{attackBearer + attackToken}, "4"}, // the token twice
			} {
				got := s.admin(t, w.line, "", append(w.lines, attackBearer+attackToken)...)
				if !strings.HasPrefix(got, "HTTP/1.1 "+w.status) {
					t.Errorf("%s %v: %s, want %s", w.line, w.lines, got, w.status)
				}
				s.unchanged(t, got)
			}
			for _, method := range []string{"OPTIONS", "GET"} {
				got := s.admin(t, method+" /admin/api-keys", "", "Origin: https://evil.example", "Access-Control-Request-Method: GET", attackBearer+"guess")
				if strings.Contains(strings.ToLower(got), "access-control-allow-origin") {
					t.Errorf("another origin's page may read what %s of the admin API says: %s", method, got)
				}
			}
			quiet(t, s.Gateway)
		})
	}
}
