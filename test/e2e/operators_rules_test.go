package e2e

// This file holds the operators' documents and their port to what nodes do.

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestEveryAlertHasItsRunbook(t *testing.T) {
	alerts, _ := rules(t)
	page := string(deployed(t, "docs/operations.md"))
	for _, alert := range alerts {
		heading := "\n### " + alert.Alert + "\n"
		_, section, found := strings.Cut(page, heading)
		section, _, _ = strings.Cut(section, "\n#")
		if !found || len(strings.TrimSpace(section)) < 200 {
			t.Errorf("docs/operations.md has no runbook for %s, or one of a few words", alert.Alert)
		}
		if !strings.HasSuffix(alert.Annotations["runbook_url"], "docs/operations.md#"+strings.ToLower(alert.Alert)) {
			t.Errorf("%s points to %q", alert.Alert, alert.Annotations["runbook_url"])
		}
		if severity := alert.Labels["severity"]; severity != "page" && severity != "ticket" || alert.Annotations["summary"] == "" {
			t.Errorf("%s has the severity %q and the summary %q", alert.Alert, severity, alert.Annotations["summary"])
		}
	}
	for part := range strings.SplitSeq(page, "\n### Nido") {
		title, _, _ := strings.Cut(part, "\n")
		if part != page[:len(part)] && !slices.ContainsFunc(alerts, func(a alert) bool { return a.Alert == "Nido"+title }) {
			t.Errorf("there is a runbook for Nido%s, and no such alert", title)
		}
	}
	if len(alerts) < 15 {
		t.Errorf("%d alerts", len(alerts))
	}
}

func TestTheOperatorsPortIsTheNodesOwn(t *testing.T) {
	t.Parallel()
	_, engines := startEngines(t, t.TempDir())
	bootstrap(t, engines)
	first := startWatched(t, engines, "projector")
	taken := launch(t, append(slices.Clone(engines), "NIDO_LISTEN="+freeAddress(t), "NIDO_OPERATOR_LISTEN="+strings.TrimPrefix(first.operators, "http://")), "serve")
	select {
	case <-taken.gone:
	case <-time.After(20 * time.Second):
		t.Fatal("a second node took the operators' port of the first")
	}
	if !strings.Contains(taken.tail(), "--operator-listen") {
		t.Errorf("the second node says %s", taken.tail())
	}
	for _, how := range []string{"auto", "auto", "off"} { // whoever comes second takes another port
		startNode(t, engines, "projector", "NIDO_OPERATOR_LISTEN="+how)
	}
	for path, status := range map[string]int{"/healthz": 200, "/debug/pprof/": 200, "/api/agents": 404} {
		if response, err := http.Get(first.operators + path); err != nil || response.StatusCode != status {
			t.Errorf("%s on the operators' listener: %v %v", path, response, err)
		}
	}
	for _, path := range []string{"/metrics", "/debug/pprof/"} {
		if response, err := http.Get(first.base + path); err != nil || response.StatusCode == http.StatusOK {
			t.Errorf("%s on the clients' listener: %v %v", path, response, err)
		}
	}
}
