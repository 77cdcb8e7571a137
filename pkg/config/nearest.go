package config

import (
	"fmt"
	"strings"
)

// didYouMean ends a message with the nearest of the right spellings, or with
// nothing if none is near.
func didYouMean(word string, right []string) string {
	if s := nearest(word, right); s != "" {
		return fmt.Sprintf("; did you mean %q?", s)
	}
	return ""
}

// nearest is the one of right with the smallest edit distance to word, if that
// is at most a third of the longer one's length; else "".
func nearest(word string, right []string) string {
	const most = 200 // beyond that it is no slip of the finger, and the distance is dear
	if len(word) > most {
		return ""
	}
	best, found := most, ""
	for _, r := range right {
		d := distance(fold(word), fold(r))
		if d < best && 3*d <= max(len(word), len(r)) {
			best, found = d, r
		}
	}
	return found
}

// fold makes Max-Retries as near to max_retries as can be.
func fold(s string) string {
	return strings.ReplaceAll(strings.ToLower(s), "-", "_")
}

// distance is the Levenshtein distance with the swap of two neighbours as one
// edit (optimal string alignment): without it "ulr" would be too far from "url".
func distance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
