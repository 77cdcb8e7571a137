package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/llmproxy/llmproxy/pkg/events"
)

// column is what requests can be told apart by.
type column struct {
	name string
	of   func(*events.Record) string
}

func allColumns() []column {
	return []column{
		{"key", func(r *events.Record) string { return r.KeyID }},
		{"name", func(r *events.Record) string { return r.Name }},
		{"user", func(r *events.Record) string { return r.UserID }},
		{"model", func(r *events.Record) string { return r.Asked }},
		{"served_model", func(r *events.Record) string { return r.Served }},
		{"backend", func(r *events.Record) string { return r.Backend }},
		{"endpoint", func(r *events.Record) string { return r.Endpoint }},
		{"day", dayOf},
	}
}

// columns reads a list of names, separated by commas.
func columns(list string) ([]column, error) {
	var out []column
	if list == "" {
		return out, nil
	}
	all := allColumns()
	for name := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(c column) bool { return c.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no column %q", name)
		}
		out = append(out, all[i])
	}
	return out, nil
}

// group is where r belongs.
func (e *export) group(groups map[string]*group, r *events.Record) *group {
	cells := make([]string, len(e.by))
	for i, c := range e.by {
		cells[i] = c.of(r)
	}
	key := strings.Join(cells, "\x00")
	g := groups[key]
	if g == nil {
		g = &group{cells: cells}
		groups[key] = g
	}
	return g
}

// sorted is the groups in the order of their columns.
func sorted(groups map[string]*group) []*group {
	out := make([]*group, 0, len(groups))
	for _, g := range groups {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b *group) int { return slices.Compare(a.cells, b.cells) })
	return out
}

func (e *export) write(w io.Writer, groups []*group) error {
	var head []string
	for _, c := range e.by {
		head = append(head, c.name)
	}
	rows := [][]string{append(head, measures()...)}
	for _, g := range groups {
		rows = append(rows, slices.Concat(g.cells, g.figures()))
	}
	switch e.format {
	case "csv":
		return csv.NewWriter(w).WriteAll(rows)
	case "json":
		return writeJSON(w, rows, len(e.by))
	}
	return writeTable(w, rows, len(e.by))
}

// writeJSON writes an object for each row but the first, which names the fields;
// those from number texts on are numbers.
func writeJSON(w io.Writer, rows [][]string, texts int) error {
	out := []map[string]any{}
	for _, row := range rows[1:] {
		object := map[string]any{}
		for i, cell := range row {
			if i < texts {
				object[rows[0][i]] = cell
			} else {
				object[rows[0][i]] = json.Number(cell)
			}
		}
		out = append(out, object)
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(out)
}

// writeTable writes texts to the left and numbers to the right of their columns.
func writeTable(w io.Writer, rows [][]string, texts int) error {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i := range row {
			if i < texts {
				row[i] = shown(row[i])
			}
			width[i] = max(width[i], utf8.RuneCountInString(row[i]))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				b.WriteString("  ")
			}
			if i < texts {
				fmt.Fprintf(&b, "%-*s", width[i], cell)
			} else {
				fmt.Fprintf(&b, "%*s", width[i], cell)
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shown is a text for a terminal: names of models come from clients, who might
// have it do something.
func shown(s string) string {
	if s == "" {
		return "-"
	}
	if quoted := strconv.Quote(s); quoted != `"`+s+`"` {
		return quoted
	}
	return s
}
