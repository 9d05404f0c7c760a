package e2e

// This file is the tests' Prometheus: it scrapes nodes, and reads the rules and the dashboard that operators are given.

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/oasdiff/yaml"
)

// watched is a node whose operators' listener the test knows.
type watched struct {
	*process
	operators string // http://127.0.0.1:port
}

func startWatched(t testing.TB, engines []string, roles string, env ...string) watched {
	t.Helper()
	listen := freeAddress(t)
	return watched{startNode(t, engines, roles, append(env, "NIDO_OPERATOR_LISTEN="+listen)...), "http://" + listen}
}

// page is what a node shows to Prometheus.
type page map[string]float64

var sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*(?:\{.*\})?) ([^ ]+)$`)

func (w watched) scrape(t testing.TB) page {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second}
	response, err := client.Get(w.operators + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%d %v: %s", response.StatusCode, err, text)
	}
	found := page{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		parts := sampleLine.FindStringSubmatch(line)
		if parts == nil {
			t.Fatalf("not a sample: %s", line)
		}
		if found[parts[1]], err = strconv.ParseFloat(parts[2], 64); err != nil {
			t.Fatal(err)
		}
	}
	return found
}

// name is a series without its labels.
func name(series string) string {
	bare, _, _ := strings.Cut(series, "{")
	return bare
}

var labelPair = regexp.MustCompile(`([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"`)

// labels are a series' own.
func labels(series string) map[string]string {
	found := map[string]string{}
	for _, pair := range labelPair.FindAllStringSubmatch(series, -1) {
		found[pair[1]] = pair[2]
	}
	return found
}

// alert is one of deploy/prometheus/alerts.yaml.
type alert struct {
	Alert, Record, Expr string
	Labels, Annotations map[string]string
}

func deployed(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile("../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// rules are the alerts and what is recorded for them.
func rules(t testing.TB) (alerts []alert, recorded []alert) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []alert } }
	if _, err := yaml.Unmarshal(deployed(t, "deploy/prometheus/alerts.yaml"), &file, yaml.DecodeOpts{}); err != nil {
		t.Fatal(err)
	}
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			if rule.Record != "" {
				recorded = append(recorded, rule)
			} else {
				alerts = append(alerts, rule)
			}
		}
	}
	return alerts, recorded
}

// dashboardQueries are the expressions of the Grafana dashboard.
func dashboardQueries(t testing.TB) []string {
	t.Helper()
	var board struct {
		Panels []struct{ Targets []struct{ Expr string } }
	}
	if err := json.Unmarshal(deployed(t, "deploy/grafana/nido.json"), &board); err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			found = append(found, target.Expr)
		}
	}
	return found
}

var (
	quoted     = regexp.MustCompile(`"[^"]*"`)
	ranges     = regexp.MustCompile(`\[[^\]]*\]`)
	braces     = regexp.MustCompile(`\{([^}]*)\}`)
	groupings  = regexp.MustCompile(`\b(?:by|without|on|ignoring) \(([^)]*)\)`)
	identifier = regexp.MustCompile(`[a-zA-Z_:][a-zA-Z0-9_:]*\(?`)
	functions  = []string{"sum(", "max(", "min(", "count(", "rate(", "increase(", "histogram_quantile("}
	operators  = []string{"unless", "or", "and", "sum", "max", "min", "count"}
)

// reads says which metrics and which labels an expression is about. It fails where it finds a word that it does not know:
// that is a metric to it, and one that nobody exposes.
func reads(expression string) (metrics, labels []string) {
	text := ranges.ReplaceAllString(quoted.ReplaceAllString(expression, ""), "")
	for _, pattern := range []*regexp.Regexp{groupings, braces} {
		for _, inner := range pattern.FindAllStringSubmatch(text, -1) {
			labels = append(labels, identifier.FindAllString(inner[1], -1)...)
		}
		text = pattern.ReplaceAllString(text, " ")
	}
	for _, word := range identifier.FindAllString(text, -1) {
		if !slices.Contains(functions, word) && !slices.Contains(operators, word) {
			metrics = append(metrics, word)
		}
	}
	return metrics, labels
}

var simpleAlert = regexp.MustCompile(`^(max|min|sum) by \(([^)]*)\) \(([a-z_]+)(\{[^}]*\})?\) (==|>) ([0-9.]+)$`)

// holds evaluates an alert of the form "max by (labels) (metric{label="value"}) > number" on a page, and says for which
// labels it is true.
func holds(t testing.TB, of alert, on page) []map[string]string {
	t.Helper()
	parts := simpleAlert.FindStringSubmatch(of.Expr)
	if parts == nil {
		t.Fatalf("the test cannot evaluate %s", of.Expr)
	}
	type group struct {
		labels map[string]string
		value  float64
	}
	groups := map[string]*group{}
	for series, value := range on {
		own := labels(series)
		matches := name(series) == parts[3]
		for label, wanted := range labels(parts[4]) {
			matches = matches && own[label] == wanted
		}
		if !matches {
			continue
		}
		kept, key := map[string]string{}, ""
		for _, label := range strings.Split(parts[2], ", ") {
			kept[label] = own[label]
			key += label + "=" + own[label] + " "
		}
		at, ok := groups[key]
		switch {
		case !ok:
			groups[key] = &group{kept, value}
		case parts[1] == "max":
			at.value = max(at.value, value)
		case parts[1] == "min":
			at.value = min(at.value, value)
		default:
			at.value += value
		}
	}
	bound, err := strconv.ParseFloat(parts[6], 64)
	if err != nil {
		t.Fatal(err)
	}
	var found []map[string]string
	for _, at := range groups {
		if parts[5] == "==" && at.value == bound || parts[5] == ">" && at.value > bound {
			found = append(found, at.labels)
		}
	}
	return found
}
