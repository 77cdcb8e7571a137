package config

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time, written with a unit ("500ms", "3s", "2m"). A
// plain 0 is allowed and means none: a bare number would be read as
// nanoseconds by some and as seconds by others.
type Duration time.Duration

// String writes d as the operator would: "1m", not "1m0s".
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func parseDuration(s string) (Duration, error) {
	if s == "0" {
		return 0, nil
	}
	if _, err := strconv.ParseFloat(s, 64); err == nil {
		return 0, fmt.Errorf("a duration needs a unit: write %sms, %ss or %sm", s, s, s)
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%s is not a duration; write for example 500ms, 3s, 2m or 1h", quote(s))
	}
	if d < 0 {
		return 0, errors.New("must not be negative")
	}
	return Duration(d), nil
}

// Size is a number of bytes, written with a unit (KiB, MiB and GiB are powers
// of 1024, KB, MB and GB of 1000) or as a plain integer.
type Size int64

// sizeUnits is ordered so that String finds the largest binary unit first.
func sizeUnits() []sizeUnit {
	return []sizeUnit{
		{"GiB", 1 << 30},
		{"MiB", 1 << 20},
		{"KiB", 1 << 10},
		{"GB", 1e9},
		{"MB", 1e6},
		{"KB", 1e3},
		{"B", 1},
	}
}

type sizeUnit struct {
	name  string
	bytes int64
}

// String writes s with the largest unit that divides it.
func (s Size) String() string {
	for _, u := range sizeUnits() {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return "0"
}

func parseSize(s string) (Size, error) {
	digits, scale := s, int64(1)
	for _, u := range sizeUnits() {
		if number, ok := strings.CutSuffix(s, u.name); ok {
			digits, scale = number, u.bytes
			break
		}
	}
	n, err := parseInteger(digits)
	if err != nil {
		return 0, fmt.Errorf("%s is not a size; write for example 16KiB, 64MiB, 1GB or a plain number of bytes", quote(s))
	}
	if n < 0 {
		return 0, errors.New("must not be negative")
	}
	if n > math.MaxInt64/scale {
		return 0, errors.New("too large")
	}
	return Size(n * scale), nil
}

// parseMode reads the permissions of a file as chmod takes them.
func parseMode(s string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(s, 8, 9)
	if err != nil || len(s) != 4 {
		return 0, fmt.Errorf("%s is not a file mode; write for example \"0660\"", quote(s))
	}
	return fs.FileMode(n), nil
}

// Secret is a value that must not be shown. Formatting it, whatever the verb,
// does not show it; string(s) does.
type Secret string

const hidden = "[secret]"

// String hides the value.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return hidden
}

// GoString hides the value from %#v.
func (s Secret) GoString() string { return strconv.Quote(s.String()) }

// MarshalText hides the value from encoders and structured logs.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// parseInteger accepts plain decimals only: YAML would read 010 as eight and
// 1_000 as a thousand.
func parseInteger(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("too large")
	}
	if err != nil || strconv.FormatInt(n, 10) != s {
		return 0, errors.New("write it as a plain decimal number")
	}
	return n, nil
}

// parsePrefix reads an address or a CIDR range. IPv4 in the form of IPv6 becomes
// IPv4: addresses of clients are held against it without that form.
func parsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%s is neither an address nor a CIDR range; write for example 10.0.0.7 or 10.0.0.0/8", quote(s))
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%s has bits beyond its /%d; did you mean %q?", quote(s), p.Bits(), p.Masked())
	}
	if p.Addr().Is4In6() {
		return netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96), nil
	}
	return p, nil
}

func parseTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%s is not a time in RFC 3339; write for example 2026-12-31T23:59:59Z", quote(s))
	}
	return t, nil
}

// quote shows a value of the file in a message, shortened.
func quote(s string) string {
	const most = 80
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strconv.Quote(s)
}
