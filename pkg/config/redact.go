package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"time"
)

// stars stand for a secret.
const stars = "***"

// Redacted is the configuration in force as JSON, with the keys of the file and
// defaults filled in. Secrets are "***", also those within URLs; what is not set
// is left out. Equal configurations give equal bytes.
func (c *Config) Redacted() ([]byte, error) {
	s := shown{secret: func(Secret) string { return stars }, text: publicURL}
	return encode(s.value(reflect.ValueOf(c).Elem()))
}

// publicURL is a URL without what may be a secret in it. Other texts stay.
func publicURL(s string) string {
	if !strings.Contains(s, "://") {
		return s
	}
	u, err := url.Parse(s)
	if err != nil {
		return stars
	}
	bare := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	out := bare.String()
	if u.User != nil {
		out = strings.Replace(out, "://", "://"+stars+"@", 1)
	}
	if u.RawQuery != "" {
		out += "?" + stars
	}
	return out
}

// Digest is the SHA-256, in hex, of the configuration in force, secrets
// included: gateways of equal digests do the same.
func (c *Config) Digest() string {
	s := shown{
		secret: func(s Secret) string { return hex.EncodeToString(sum([]byte(s))) },
		text:   func(s string) string { return s },
	}
	text, err := encode(s.value(reflect.ValueOf(c).Elem()))
	if err != nil {
		panic("BUG: a configuration that is no JSON: " + err.Error())
	}
	return hex.EncodeToString(sum(text))
}

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // of URLs
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("cannot write the configuration: %w", err)
	}
	return b.Bytes(), nil
}

// shown says how secrets and other texts are shown.
type shown struct {
	secret func(Secret) string
	text   func(string) string
}

// section is a struct by the keys of the file, without texts, limits and times
// that are not set: written out, some would mean another thing.
func (s shown) section(v reflect.Value) map[string]any {
	out := map[string]any{}
	for _, f := range reflect.VisibleFields(v.Type()) {
		tag, field := f.Tag.Get("yaml"), v.FieldByIndex(f.Index)
		if tag == "" {
			continue
		}
		_, isTime := reflect.TypeAssert[time.Time](field)
		if field.IsZero() && (isTime || field.Kind() == reflect.String || limitOf(f) > 0) {
			continue
		}
		out[tag] = s.value(field)
	}
	return out
}

// value is v as it would stand in the file.
func (s shown) value(v reflect.Value) any {
	switch d := v.Interface().(type) {
	case Secret:
		return s.secret(d)
	case Duration, Size, netip.Prefix:
		return fmt.Sprint(d)
	case fs.FileMode:
		return fmt.Sprintf("%04o", d)
	case time.Time:
		return d.Format(time.RFC3339)
	}
	switch v.Kind() {
	case reflect.String:
		return s.text(v.String())
	case reflect.Struct:
		return s.section(v)
	case reflect.Map:
		out := map[string]any{}
		for name, e := range v.Seq2() {
			out[name.String()] = s.value(e)
		}
		return out
	case reflect.Slice:
		out := make([]any, v.Len())
		for i := range out {
			out[i] = s.value(v.Index(i))
		}
		return out
	case reflect.Interface:
		return s.value(v.Elem())
	default:
		return v.Interface()
	}
}
