package api

// This file stands beside the story: the two documents that the installation has about itself, the contract and what each error
// code means. They change with the binary only, so that who has one asks whether it is still the same.

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"net/http"
	"strings"
)

// static is a document as it is served.
type static struct {
	contentType, tag string
	body             []byte
}

func newStatic(contentType string, body []byte) static {
	hash := sha256.Sum256(body)
	return static{contentType, `"` + hex.EncodeToString(hash[:12]) + `"`, body}
}

// GetOpenAPI implements ServerInterface.
func (s *Server) GetOpenAPI(w http.ResponseWriter, r *http.Request) { s.show(w, r, s.contract) }

// GetErrors implements ServerInterface. An error's docUrl leads here: a browser is shown the code's own entry.
func (s *Server) GetErrors(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Accept")
	if strings.Contains(r.Header.Get("Accept"), "text/html") {
		s.show(w, r, s.errorsHTML)
		return
	}
	s.show(w, r, s.errorsMarkdown)
}

func (s *Server) show(w http.ResponseWriter, r *http.Request, p static) {
	w.Header().Set("ETag", p.tag)
	w.Header().Set("Cache-Control", "no-cache") // it may be kept, and is asked for again
	if isSame(r.Header.Get("If-None-Match"), p.tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", p.contentType)
	s.send(w, r, http.StatusOK, p.body)
}

// isSame reports whether a client has what a tag names already.
func isSame(known, tag string) bool {
	for one := range strings.SplitSeq(known, ",") {
		if one = strings.TrimPrefix(strings.TrimSpace(one), "W/"); one == tag || one == "*" {
			return true
		}
	}
	return false
}

// ErrorsPage writes the catalogue as the page that docs/errors.md is, too.
func ErrorsPage() string {
	var page strings.Builder
	page.WriteString(`# Errors

<!-- Written from the catalogue in api/catalogue.go; a test compares. -->

Every error of every route has this envelope. ` + "`code`" + ` never changes its meaning; ` + "`message`" + ` is for people and follows
` + "`Accept-Language`" + ` (en, es). ` + "`retryable`" + ` says whether the same request can succeed later, and ` + "`retryAfterMs`" + ` when; the headers
` + "`Retry-After`" + ` (whole seconds) and ` + "`Retry-After-Ms`" + ` say the same. In a stream only the envelope can say it, in ` + "`turn.failed`" + `.
With ` + "`Accept: application/problem+json`" + ` the same facts come as RFC 9457 has them.

` + "```json" + `
` + envelopeExample + `
` + "```" + `
`)
	for _, entry := range catalogue {
		fmt.Fprintf(&page, "\n## %s\n\n%s\n\n%s %s\n", entry.Code, entry.facts(), entry.English, entry.Advice)
	}
	return page.String()
}

const envelopeExample = `{"error": {"code": "invalid_request", "message": "query is missing.", "type": "invalid_request_error", "param": "query",
           "details": {"field": "query"}, "requestId": "req_…", "retryable": false, "docUrl": "…/errors#invalid_request"}}`

func (e Entry) facts() string {
	repeat := "no"
	if e.Retryable {
		repeat = "yes"
	}
	return fmt.Sprintf("Status %d, type `%s`, retryable: %s.", e.Status, e.Type, repeat)
}

// errorsTemplate is the same page for browsers, in which each code is a place that a link can lead to.
var errorsTemplate = template.Must(template.New("errors").Funcs(template.FuncMap{"codeParts": codeParts}).Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Errors</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }
pre { overflow-x: auto } section { padding: 0 .5rem } :target { outline: 2px solid }
</style>
<h1>Errors</h1>
<pre>{{.Example}}</pre>
{{range .Entries}}<section id="{{.Code}}">
<h2><a href="#{{.Code}}">{{.Code}}</a></h2>
<p>{{range codeParts .Facts}}{{if .Code}}<code>{{.Text}}</code>{{else}}{{.Text}}{{end}}{{end}}</p>
<p>{{.English}} {{range codeParts .Advice}}{{if .Code}}<code>{{.Text}}</code>{{else}}{{.Text}}{{end}}{{end}}</p>
</section>
{{end}}</html>
`))

// sentencePart is a part of a sentence.
type sentencePart struct {
	Text string
	Code bool // it stood between backquotes
}

func codeParts(text string) (parts []sentencePart) {
	for i, part := range strings.Split(text, "`") {
		parts = append(parts, sentencePart{part, i%2 == 1})
	}
	return parts
}

func errorsHTML() ([]byte, error) {
	type told struct{ Code, Facts, English, Advice string }
	var entries []told
	for _, entry := range catalogue {
		entries = append(entries, told{entry.Code, entry.facts(), entry.English, entry.Advice})
	}
	var html strings.Builder
	if err := errorsTemplate.Execute(&html, map[string]any{"Example": envelopeExample, "Entries": entries}); err != nil {
		return nil, fmt.Errorf("write the errors' page: %w", err)
	}
	return []byte(html.String()), nil
}
