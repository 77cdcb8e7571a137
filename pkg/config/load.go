package config

import (
	"errors"
	"fmt"
	"os"
	"reflect"

	"github.com/go-viper/mapstructure/v2"
	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
)

// levels separates the levels of a key within koanf. Model names hold dots and
// slashes; no key can hold NUL, because control characters are refused.
const levels = "\x00"

// origin is where the values of a Config came from.
type origin struct {
	*report
	warnings []string
}

// Load reads the file at path, a regular one of at most 16 MiB, and then the
// environment, os.Environ() as a rule. An error is an *Error with every fault
// of both.
func Load(path string, environ []string) (*Config, error) {
	data, err := readFile(path, 16<<20)
	if err != nil {
		return nil, &Error{Faults: []Fault{{File: path, Message: fmt.Sprintf("cannot read it: %v", reason(err))}}}
	}
	c, err := Parse(path, data, environ)
	if err != nil {
		return nil, err
	}
	c.warnOfReaders(path)
	return c, nil
}

// Parse is Load for a file whose content is at hand. The name is used in
// messages, and its directory is where relative paths begin.
func Parse(name string, data []byte, environ []string) (*Config, error) {
	r := newReport(name)
	k := koanf.New(levels)
	w := &walker{report: r, source: name, lines: true}
	if root := w.document(data); root != nil {
		tree, _ := w.value(root, reflect.TypeFor[Config](), "").(map[string]any)
		if err := k.Load(confmap.Provider(tree, ""), nil); err != nil {
			r.fault("", "cannot merge the file: %v", err)
		}
	}
	if err := k.Load(environment(r, environ), nil); err != nil {
		r.fault("", "cannot merge the environment: %v", err)
	}
	c := Default()
	if err := decode(k, c); err != nil && len(r.faults) == 0 {
		r.fault("", "cannot decode: %v", err)
	}
	c.origin = &origin{report: r}
	if !r.faulty[""] {
		c.complete(environ)
		c.check()
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	c.warn()
	return c, nil
}

// decode puts the merged tree into c, which holds the defaults. The walker has
// checked the tree; unused keys and inexact names would be a mistake of ours.
func decode(k *koanf.Koanf, c *Config) error {
	return k.UnmarshalWithConf("", c, koanf.UnmarshalConf{
		Tag: "yaml",
		DecoderConfig: &mapstructure.DecoderConfig{
			DecodeHook:  mapstructure.TextUnmarshallerHookFunc(), // for addresses and times
			ErrorUnused: true,
			Squash:      true, // an embedded struct is part of its section
			ZeroFields:  true, // a list replaces the default list
			MatchName:   func(key, field string) bool { return key == field },
		},
	})
}

// readFile reads a regular file of at most so many bytes: a pipe may never have
// a writer, and /dev/zero has no end.
func readFile(path string, most Size) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	case info.Size() > int64(most):
		return nil, fmt.Errorf("larger than %v", most)
	}
	return os.ReadFile(path)
}

// reason is an error of the file system without the path, which is said already.
func reason(err error) error {
	if p := (*os.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}
