package api

// This file stands beside a request on its way: what of it will be gone one day, by the marks in openapi.yaml. Answers say so
// in Deprecation (RFC 9745) and Sunset (RFC 8594), and GET /api/me says which key still uses it.
//
// An operation, a query parameter or a field of a body is marked with "deprecated: true" and, beside it, x-deprecated-since
// and x-sunset, two times of RFC 3339, and x-deprecation-link, a page that says what to use instead.

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
	"github.com/getkin/kin-openapi/openapi3"

	"github.com/nidohq/nido/projections"
)

// noticeMonths is how long ahead a breaking change is announced.
const noticeMonths = 3

// Deprecations counts who uses what will be gone, and says so.
type Deprecations interface {
	// Used notes a use. It must not block.
	Used(account, publicID, item string, at time.Time)
	// Of lists what an account's keys have used, up to a minute old.
	Of(ctx context.Context, account, publicID string) ([]projections.DeprecatedUse, error)
}

// deprecation is one mark.
type deprecation struct {
	method, route string
	field         string   // dotted; empty for the operation
	path          []string // of a body's field; "*" stands for every item of an array
	parameter     bool     // field is one of the query
	since, sunset time.Time
	link          string
}

// item names the mark where its uses are counted.
func (d deprecation) item() string {
	return strings.TrimSpace(d.method + " " + d.route + " " + d.field)
}

// deprecated gathers the marks of an operation. One that does not say since when and until when, or does not leave
// clients the time that they were promised, is a fault of the document.
func (op *operation) deprecated() ([]deprecation, error) {
	var found []deprecation
	add := func(extensions map[string]any, field string, path []string, parameter bool) error {
		mark := deprecation{method: op.method, route: op.route, field: field, path: path, parameter: parameter}
		mark.link, _ = extensions["x-deprecation-link"].(string)
		var err error
		for name, target := range map[string]*time.Time{"x-deprecated-since": &mark.since, "x-sunset": &mark.sunset} {
			text, _ := extensions[name].(string)
			if *target, err = time.Parse(time.RFC3339, text); err != nil {
				return fmt.Errorf("%s is deprecated without %s", mark.item(), name)
			}
		}
		if mark.sunset.Before(mark.since.AddDate(0, noticeMonths, 0)) {
			return fmt.Errorf("%s: x-sunset lies less than %d months behind x-deprecated-since", mark.item(), noticeMonths)
		}
		found = append(found, mark)
		return nil
	}
	if op.spec.Deprecated {
		if err := add(op.spec.Extensions, "", nil, false); err != nil {
			return nil, err
		}
	}
	for _, parameter := range op.parameters {
		if parameter.Value.Deprecated && parameter.Value.In == openapi3.ParameterInQuery {
			if err := add(parameter.Value.Extensions, parameter.Value.Name, nil, true); err != nil {
				return nil, err
			}
		}
	}
	return found, eachDeprecated(op.body, nil, func(schema *openapi3.Schema, path []string) error {
		return add(schema.Extensions, strings.Join(path, "."), path, false)
	})
}

func eachDeprecated(schema *openapi3.Schema, path []string, visit func(*openapi3.Schema, []string) error) error {
	if schema == nil || len(path) > 8 {
		return nil
	}
	if schema.Deprecated {
		return visit(schema, slices.Clone(path))
	}
	for name, property := range schema.Properties {
		if err := eachDeprecated(property.Value, append(path, name), visit); err != nil {
			return err
		}
	}
	if schema.Items != nil {
		return eachDeprecated(schema.Items.Value, append(path, "*"), visit)
	}
	return nil
}

// announce tells the caller what of the request will be gone, and notes it for the count.
func (s *Server) announce(w http.ResponseWriter, r *http.Request, x *exchange) error {
	if len(x.op.deprecations) == 0 {
		return nil
	}
	var body any
	if len(x.body) > 0 {
		body, _ = decodeAny(x.body) // it has been read once already, or there is no body to speak of
	}
	query := r.URL.Query()
	for _, mark := range x.op.deprecations {
		if mark.field == "" || mark.parameter && query.Has(mark.field) || mark.path != nil && has(body, mark.path) {
			x.fading = append(x.fading, mark)
		}
	}
	return s.tellDeprecation(w.Header(), x.fading)
}

// has reports whether a body has a field.
func has(value any, path []string) bool {
	if len(path) == 0 {
		return true
	}
	switch value := value.(type) {
	case map[string]any:
		inner, there := value[path[0]]
		return there && has(inner, path[1:])
	case []any:
		return path[0] == "*" && slices.ContainsFunc(value, func(item any) bool { return has(item, path[1:]) })
	}
	return false
}

// tellDeprecation writes the headers: the oldest mark, the nearest end, and a link for each.
func (s *Server) tellDeprecation(header http.Header, marks []deprecation) error {
	if len(marks) == 0 {
		return nil
	}
	since := slices.MinFunc(marks, func(a, b deprecation) int { return a.since.Compare(b.since) }).since
	sunset := slices.MinFunc(marks, func(a, b deprecation) int { return a.sunset.Compare(b.sunset) }).sunset
	text, err := httpsfv.Marshal(httpsfv.NewItem(since))
	if err != nil {
		return fmt.Errorf("write Deprecation: %w", err)
	}
	header.Set("Deprecation", text)
	header.Set("Sunset", sunset.UTC().Format(http.TimeFormat))
	var links []string
	for _, mark := range marks {
		if link := "<" + s.documentation(mark) + `>; rel="deprecation"`; !slices.Contains(links, link) {
			links = append(links, link)
			header.Add("Link", link)
		}
	}
	return nil
}

// documentation is where it says what to use instead.
func (s *Server) documentation(mark deprecation) string {
	switch {
	case mark.link == "":
		return s.config.PublicURL + "/openapi.json"
	case strings.HasPrefix(mark.link, "/"):
		return s.config.PublicURL + mark.link
	}
	return mark.link
}

// usedDeprecations is what the caller's account has used of what there still is.
func (s *Server) usedDeprecations(r *http.Request) ([]MeDeprecation, error) {
	if len(s.deprecations) == 0 {
		return []MeDeprecation{}, nil
	}
	caller := exchangeOf(r).caller
	uses, err := s.config.Deprecations.Of(r.Context(), caller.Account, caller.PublicID)
	if err != nil {
		return nil, err
	}
	used := []MeDeprecation{}
	for _, use := range uses {
		mark, marked := s.deprecations[use.Item]
		if !marked { // it is gone, or was taken back
			continue
		}
		used = append(used, MeDeprecation{
			Method: mark.method, Route: mark.route, Field: some(mark.field),
			DeprecatedAt: Timestamp(mark.since), SunsetAt: Timestamp(mark.sunset), Documentation: s.documentation(mark),
			Uses: use.Uses, LastUsedAt: Timestamp(use.LastUsedAt), UsesOfThisKey: use.UsesOfKey, LastUsedByThisKeyAt: someTimeAt(use.KeyLastUsedAt),
		})
	}
	return used, nil
}
