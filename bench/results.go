//go:build linux

package main

// This file is what comes out: medians with their range, ratios of the same round, a table and JSON.

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// results is the JSON file. It names no machine.
type results struct {
	Began      time.Time `json:"began"`
	CPUs       int       `json:"cpus"`
	MemoryMB   int64     `json:"memoryMB"`
	Quick      bool      `json:"quick"`
	Rounds     int       `json:"rounds"`
	Span       string    `json:"span"`
	LoadBefore string    `json:"loadBefore"`
	LoadAfter  string    `json:"loadAfter"`
	Lines      []line    `json:"lines"`
}

// line is one figure.
type line struct {
	Row    int     `json:"row"`
	What   string  `json:"what"`
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
	Unit   string  `json:"unit"`
	Goal   string  `json:"goal,omitempty"`
	Met    *bool   `json:"met,omitempty"`
}

// add keeps the median and the range of one value per round.
func (r *results) add(row int, what, unit string, values ...float64) *line {
	sorted := slices.Sorted(slices.Values(values))
	if len(sorted) == 0 {
		sorted = []float64{0}
	}
	r.Lines = append(r.Lines, line{Row: row, What: what, Unit: unit, Median: middle(sorted), Min: sorted[0], Max: sorted[len(sorted)-1]})
	last := &r.Lines[len(r.Lines)-1]
	fmt.Fprintf(os.Stderr, "  %d  %s: %s\n", row, what, last.value())
	return last
}

func middle(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// atMost and atLeast say what the figure should be.
func (l *line) atMost(goal float64)  { l.want("≤", goal, l.Median <= goal) }
func (l *line) atLeast(goal float64) { l.want("≥", goal, l.Median >= goal) }

func (l *line) want(sign string, goal float64, met bool) {
	l.Goal, l.Met = fmt.Sprintf("%s %s", sign, number(goal)), &met
}

func (l *line) value() string {
	return fmt.Sprintf("%s (%s–%s) %s", number(l.Median), number(l.Min), number(l.Max), l.Unit)
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

func (r *results) print(to io.Writer) {
	slices.SortStableFunc(r.Lines, func(a, b line) int { return cmp.Compare(a.Row, b.Row) })
	fmt.Fprintf(to, "\n%s, %d CPUs, %d MB, %d rounds of %s, load before %s, after %s\n\n", r.Began.Format(time.RFC3339), r.CPUs, r.MemoryMB,
		r.Rounds, r.Span, r.LoadBefore, r.LoadAfter)
	table := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "row\tmeasure\tmedian (min–max)\tgoal\t")
	for _, l := range r.Lines {
		met := ""
		if l.Met != nil {
			met = map[bool]string{true: "met", false: "missed"}[*l.Met]
		}
		fmt.Fprintln(table, strings.Join([]string{fmt.Sprint(l.Row), l.What, l.value(), l.Goal, met}, "\t"))
	}
	_ = table.Flush() // to the screen
}

func (r *results) write(file string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if err := os.WriteFile(file, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}
