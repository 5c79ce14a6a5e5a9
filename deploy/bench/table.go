package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// table gathers the figures of all rounds.
type table struct {
	cases   []benchCase
	columns []system
	cells   map[cell]*samples
	notes   []string
}

type cell struct{ row, column int }

type samples struct{ figures, p99 []float64 }

func newTable(cases []benchCase, columns []system) *table {
	return &table{cases: cases, columns: columns, cells: map[cell]*samples{}}
}

func (t *table) add(row, column int, figure, p99 float64) {
	c := t.cells[cell{row, column}]
	if c == nil {
		c = &samples{}
		t.cells[cell{row, column}] = c
	}
	c.figures, c.p99 = append(c.figures, figure), append(c.p99, p99)
}

func (t *table) note(text string) { t.notes = append(t.notes, text) }

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}

// write prints medians as a Markdown table whose source can be read as well, and behind each figure the ratio to every
// floor left of it.
func (t *table) write(out io.Writer) error {
	head := []string{"case", "figure"}
	for _, s := range t.columns {
		head = append(head, s.name)
	}
	rows := [][]string{head}
	for i, c := range t.cases {
		row := []string{c.name, c.figure}
		for column := range t.columns {
			row = append(row, t.text(i, column))
		}
		rows = append(rows, row)
	}
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, text := range row {
			width[i] = max(width[i], utf8.RuneCountInString(text))
		}
	}
	dashes := make([]string, len(width))
	for i, n := range width {
		dashes[i] = strings.Repeat("-", n)
	}
	var b strings.Builder
	for _, row := range slices.Insert(rows, 1, dashes) {
		for i, text := range row {
			b.WriteString("| " + text + strings.Repeat(" ", width[i]-utf8.RuneCountInString(text)) + " ")
		}
		b.WriteString("|\n")
	}
	if len(t.columns) > 1 {
		b.WriteString("\nIn parentheses: the ratio to each floor, from left to right.\n")
	}
	for _, n := range t.notes {
		b.WriteString("note: " + n + "\n")
	}
	if _, err := io.WriteString(out, b.String()); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	return nil
}

func (t *table) text(row, column int) string {
	here := t.cells[cell{row, column}]
	if here == nil {
		return "–"
	}
	m := median(here.figures)
	text := figure(m)
	var ratios []string
	for i, s := range t.columns[:column] {
		if base := t.cells[cell{row, i}]; s.floor && base != nil && median(base.figures) > 0 {
			ratios = append(ratios, fmt.Sprintf("× %.2f", m/median(base.figures)))
		}
	}
	if len(ratios) > 0 {
		text += " (" + strings.Join(ratios, ", ") + ")"
	}
	if p := median(here.p99); p > 0 {
		text += " p99 " + figure(p) + " ms"
	}
	return text
}

func figure(x float64) string {
	switch {
	case math.Abs(x) >= 100_000:
		return fmt.Sprintf("%.0f k", x/1000)
	case math.Abs(x) >= 1000:
		return fmt.Sprintf("%.1f k", x/1000)
	}
	return fmt.Sprintf("%.3g", x)
}
