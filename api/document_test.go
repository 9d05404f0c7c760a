package api

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

func TestTheDocumentIsSoundAndItsExamplesFit(t *testing.T) {
	doc, err := loadDocument(document)
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context(), openapi3.EnableExamplesValidation()); err != nil {
		t.Error(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Errorf("it is OpenAPI %s", doc.OpenAPI)
	}
}

// The validator that requests go through passes over these without a word.
func TestTheDocumentUsesNothingThatTheValidatorDoesNotKnow(t *testing.T) {
	keyword := regexp.MustCompile(`(?m)^\s*(?:- )?(const|prefixItems|contains|patternProperties|dependentSchemas|dependentRequired|propertyNames|unevaluated\w+|if|then|else|\$defs):|[{,]\s*(const|prefixItems|patternProperties|propertyNames|if):`)
	if found := keyword.FindString(string(document)); found != "" {
		t.Errorf("openapi.yaml uses %q", found)
	}
}

func TestEveryOperationDocumentsItsErrors(t *testing.T) {
	w := newWorld(t)
	for name, op := range w.ops {
		wanted := []int{400, 404, 405, 431, 500}
		if !op.open {
			wanted = append(wanted, 401, 403, 503, 504)
		}
		if op.body != nil {
			wanted = append(wanted, 408, 413, 415)
		}
		if op.chat {
			wanted = append(wanted, 429)
		}
		if op.idempotent {
			wanted = append(wanted, 409, 422)
		}
		for _, status := range wanted {
			if op.spec.Responses.Status(status) == nil {
				t.Errorf("%s does not document %d", name, status)
			}
		}
		if writes := op.method != http.MethodGet; writes != op.idempotent {
			t.Errorf("%s: takes an Idempotency-Key: %v", name, op.idempotent)
		}
		if op.spec.OperationID == "" || op.spec.Summary == "" || len(op.spec.Tags) != 1 {
			t.Errorf("%s lacks operationId, summary or tag", name)
		}
	}
}

func TestTheDocumentIsServed(t *testing.T) {
	w := newWorld(t)
	answer := w.do(request{method: "GET", path: "/openapi.json"})
	served, err := openapi3.NewLoader().LoadFromData(answer.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := served.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	if served.Paths.Len() < 20 {
		t.Errorf("it has %d paths", served.Paths.Len())
	}
}

func TestWhoHasADocumentIsNotSentItAgain(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/openapi.json", "/errors"} {
		first := w.do(request{method: "GET", path: path})
		tag := first.Header().Get("ETag")
		if first.Code != 200 || tag == "" || first.Header().Get("Cache-Control") != "no-cache" {
			t.Errorf("%s: %d %v", path, first.Code, first.Header())
		}
		for known, status := range map[string]int{tag: 304, "W/" + tag: 304, `"x", ` + tag: 304, "*": 304, `"x"`: 200, "": 200} {
			again := w.do(request{method: "GET", path: path, header: map[string]string{"If-None-Match": known}})
			if again.Code != status || (again.Body.Len() == 0) != (status == 304) || again.Header().Get("ETag") != tag {
				t.Errorf("%s, of which %s is known: %d, %d bytes", path, known, again.Code, again.Body.Len())
			}
		}
	}
}

func TestABrowserIsShownTheEntryThatAnErrorLinksTo(t *testing.T) {
	w := newWorld(t)
	page := w.do(request{method: "GET", path: "/errors", header: map[string]string{"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}})
	if page.Header().Get("Content-Type") != "text/html; charset=utf-8" || page.Header().Get("Vary") != "Accept" {
		t.Errorf("%v", page.Header())
	}
	for _, entry := range catalogue {
		if !strings.Contains(page.Body.String(), `<section id="`+entry.Code+`">`) {
			t.Errorf("no place for %s", entry.Code)
		}
	}
	if strings.Contains(page.Body.String(), "`") || !strings.Contains(page.Body.String(), "<code>POST /api/agents/{id}/resume</code>") {
		t.Errorf("%s", page.Body)
	}
	if markdown := w.do(request{method: "GET", path: "/errors"}); markdown.Body.String() != ErrorsPage() || markdown.Header().Get("ETag") == page.Header().Get("ETag") {
		t.Errorf("%v", markdown.Header())
	}
}
