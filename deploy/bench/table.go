package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// table gathers the figures of all rounds.
type table struct {
	cases []benchCase
	peers []*peer
	cells map[cell]*samples
	notes []string
}

type cell struct {
	row  int
	peer *peer
}

type samples struct{ figures, p99 []float64 }

func newTable(cases []benchCase, peers []*peer) *table {
	return &table{cases: cases, peers: peers, cells: map[cell]*samples{}}
}

func (t *table) add(row int, p *peer, figure, p99 float64) {
	c := t.cells[cell{row, p}]
	if c == nil {
		c = &samples{}
		t.cells[cell{row, p}] = c
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

// write prints medians, and in parentheses the ratio to the first peer.
func (t *table) write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	head := []string{"case", "figure"}
	for _, p := range t.peers {
		head = append(head, p.name)
	}
	fmt.Fprintln(w, strings.Join(head, "\t"))
	for i, c := range t.cases {
		row := []string{c.name, c.figure}
		base := t.cells[cell{i, t.peers[0]}]
		for _, p := range t.peers {
			row = append(row, t.cells[cell{i, p}].text(base, p == t.peers[0]))
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write the table: %w", err)
	}
	for _, n := range t.notes {
		fmt.Fprintln(out, "note:", n)
	}
	return nil
}

func (s *samples) text(base *samples, isBase bool) string {
	if s == nil {
		return "–"
	}
	m := median(s.figures)
	text := figure(m)
	if !isBase && base != nil && median(base.figures) > 0 {
		text += fmt.Sprintf(" (× %.2f)", m/median(base.figures))
	}
	if p := median(s.p99); p > 0 {
		text += fmt.Sprintf(" p99 %s ms", figure(p))
	}
	return text
}

func figure(x float64) string {
	if math.Abs(x) >= 1000 {
		return fmt.Sprintf("%.1f k", x/1000)
	}
	return fmt.Sprintf("%.3g", x)
}
