package keystore

import (
	"fmt"
	"slices"
	"strings"
)

// unknown says that a field is not known, and which may have been meant. A name
// that could be a secret in the wrong place is not repeated.
func unknown(name string, known []string) string {
	const most = 40 // beyond that it is no slip of the finger
	if len(name) > most {
		return "unknown field; there are " + strings.Join(known, ", ")
	}
	folded := strings.ReplaceAll(strings.ToLower(name), "-", "_")
	best := slices.MinFunc(known, func(a, b string) int { return distance(folded, a) - distance(folded, b) })
	if 3*distance(folded, best) <= max(len(name), len(best)) {
		return fmt.Sprintf("unknown field %q; did you mean %q?", name, best)
	}
	message := "unknown field"
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyz_") == "" {
		message += ` "` + name + `"`
	}
	return message + "; there are " + strings.Join(known, ", ")
}

// distance is the number of bytes to add, take out, replace or swap with the next.
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			same := last[j]
			if a[i] != b[j] {
				same++
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, same)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
