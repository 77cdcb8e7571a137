package config

import (
	"fmt"
	"strings"
)

// describeAuth says how many keys there are and what binds them; names and keys
// themselves are no business of who reads a terminal.
func (c *Config) describeAuth(row func(...string)) {
	if !c.Auth.Enabled {
		row("auth", "off: anyone may call")
		return
	}
	kept := "keys.json in " + c.DataDir
	if c.Auth.Storage == "redis" {
		kept = "Redis"
	}
	row("auth", fmt.Sprintf("%s in the configuration, and those in %s", plural(len(c.APIKeys), "key"), kept))
	row("", c.quotaText())
	if own := c.ownText(); own != "" {
		row("", own)
	}
}

func (c *Config) quotaText() string {
	d, zone := c.Auth.Defaults, c.Auth.Timezone
	if zone == "" {
		zone = "the zone of this machine"
	}
	text := "no quota unless a key says so"
	if d.TotalQuota > 0 {
		often := strings.Replace(d.QuotaResetPeriod, "never", "in all", 1)
		text = fmt.Sprintf("%d tokens %s unless a key says otherwise", d.TotalQuota, often)
	}
	text += "; periods end in " + zone
	if len(d.AllowedModels) > 0 {
		text += "; models " + strings.Join(d.AllowedModels, ", ")
	}
	if len(d.AllowedIPs) > 0 {
		text += "; " + plural(len(d.AllowedIPs), "address range")
	}
	return text
}

// ownText counts the keys of the file by what they say.
func (c *Config) ownText() string {
	var out []string
	count := func(what string, has func(*APIKey) bool) {
		n := 0
		for i := range c.APIKeys {
			if has(&c.APIKeys[i]) {
				n++
			}
		}
		if n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, what))
		}
	}
	count("with a quota", func(k *APIKey) bool { return k.TotalQuota > 0 })
	count("with limits of their own", func(k *APIKey) bool { return k.KeyLimit != KeyLimit{} })
	count("bound to models", func(k *APIKey) bool { return len(k.AllowedModels) > 0 })
	count("bound to addresses", func(k *APIKey) bool { return len(k.AllowedIPs) > 0 })
	count("that expire", func(k *APIKey) bool { return !k.ExpiresAt.IsZero() })
	count("disabled", func(k *APIKey) bool { return k.Status == "disabled" })
	return strings.Join(out, ", ")
}

func (c *Config) limitsText() string {
	if !c.RateLimit.Enabled {
		return "off, but for limits that keys have of their own"
	}
	g, k := c.RateLimit.Global, c.RateLimit.PerKey
	all := rates(rate{g.RequestsPerSecond, "/s"}, rate{g.BurstSize, " at once"})
	each := rates(rate{k.RequestsPerSecond, "/s"}, rate{k.BurstSize, " at once"}, rate{k.RequestsPerMinute, "/min"},
		rate{k.TokensPerMinute, " tokens/min"}, rate{k.MaxConcurrent, " at a time"})
	what := "key"
	if !c.Auth.Enabled {
		what = "bearer token and address"
	}
	return fmt.Sprintf("all: %s; per %s: %s; counted in %s", all, what, each, c.RateLimit.Storage)
}

type rate struct {
	n    int64 // 0: no limit
	unit string
}

func rates(all ...rate) string {
	var out []string
	for _, r := range all {
		if r.n != 0 {
			out = append(out, fmt.Sprintf("%d%s", r.n, r.unit))
		}
	}
	if len(out) == 0 {
		return "no limit"
	}
	return strings.Join(out, ", ")
}

func (c *Config) adminText() string {
	switch a := c.Admin; {
	case a.Token == "":
		return "off: there is no admin.token"
	case a.Listen != "":
		return "/admin/ on " + a.Listen
	default:
		return "/admin/ on the main listener"
	}
}

func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
