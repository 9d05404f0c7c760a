package api

// This file stands between a request and its command: what openapi.yaml says about parameters and bodies is enforced
// here, naming the field at fault.
//
// The schemas are visited by kin-openapi's own validator. Its other one, for JSON Schema 2020-12, compiles the schema
// anew for every request: 1.5 ms against 4 µs. What only that one knows (const, prefixItems, if …) stays out of
// openapi.yaml, which a test checks.

import (
	"bytes"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/gorilla/mux"
)

var parameterOptions = &openapi3filter.Options{
	SkipSettingDefaults: true, SchemaValidationOptions: []openapi3.SchemaValidationOption{timesThatExist},
}

// timesThatExist narrows the validator's own form of a time, which allows the 31st of June: what was allowed must be
// readable, and it must still be a time of that form once it is told in UTC.
var timesThatExist = openapi3.WithStringFormatValidator("date-time", openapi3.NewCallbackValidator(func(text string) error {
	if !rfc3339.MatchString(text) {
		return errNoTime
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if year := at.UTC().Year(); err != nil || year < 1 || year > 9999 {
		return errNoTime
	}
	return nil
}))

var (
	rfc3339   = regexp.MustCompile(openapi3.FormatOfStringDateTime)
	errNoTime = errors.New("not a time of RFC 3339")
)

// validate checks a request against its operation.
func validate(r *http.Request, op *operation, body []byte) error {
	if err := validateQuery(r, op); err != nil {
		return err
	}
	// Without a document behind the route the validator is the fast one.
	input := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: mux.Vars(r), Options: parameterOptions,
		Route: &routers.Route{Path: op.route, PathItem: op.item, Method: op.method, Operation: op.spec},
	}
	for _, parameter := range op.parameters {
		if err := openapi3filter.ValidateParameter(r.Context(), input, parameter.Value); err != nil {
			return violation(parameter.Value, err)
		}
	}
	return validateBody(op, body)
}

// validateQuery refuses parameters that the operation does not have: a filter that is misspelt must not list everything.
func validateQuery(r *http.Request, op *operation) error {
	if r.URL.RawQuery == "" || op.openAI {
		return nil
	}
	parameters, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil { // r.URL.Query would leave out what it cannot read
		return invalid("", "The query string is not valid.", "La cadena de consulta no es válida.")
	}
	for name, values := range parameters {
		switch {
		case !slices.Contains(op.query, name):
			return unknownParameter(name, op.query)
		case len(values) > 1:
			return repeated(name)
		case !printable(values[0]):
			return invalid(name, name+" must be printable text in UTF-8.", name+" debe ser texto imprimible en UTF-8.")
		}
	}
	return nil
}

func validateBody(op *operation, body []byte) error {
	if op.body == nil {
		return nil
	}
	if len(bytes.TrimSpace(body)) == 0 {
		if !op.bodyRequired {
			return nil
		}
		return invalid("", "A JSON body is required.", "Se necesita un cuerpo JSON.")
	}
	value, err := decodeAny(body)
	if err != nil {
		return err
	}
	if op.openAI { // elsewhere such a field is unknown, and refused as that
		if field, name, found := otherLetters(op.body, value, nil); found {
			return misspelt(field, name)
		}
	}
	if err := op.body.VisitJSON(value, openapi3.VisitAsRequest(), openapi3.EnableFormatValidation(), timesThatExist); err != nil {
		return violation(nil, err)
	}
	if hasOddKey(value) {
		return invalid("metadata", "The keys of metadata must have 1 to 64 characters.", "Las claves de metadata deben tener de 1 a 64 caracteres.")
	}
	if !op.chat && bytes.Contains(body, []byte(`\u0000`)) { // chats are sealed; everything else is text in Postgres
		if field, found := nulField(value, nil); found {
			return invalid(field, field+" must not contain the character NUL.", field+" no puede contener el carácter NUL.")
		}
	}
	return nil
}

// hasOddKey looks at the lengths of metadata's keys, of which the validator that is used here knows nothing.
func hasOddKey(body any) bool {
	fields, _ := body.(map[string]any)
	metadata, _ := fields["metadata"].(map[string]any)
	for key := range metadata {
		if length := utf8.RuneCountInString(key); length < 1 || length > 64 {
			return true
		}
	}
	return false
}

func nulField(value any, path []string) (string, bool) {
	switch value := value.(type) {
	case string:
		return strings.Join(path, "."), strings.ContainsRune(value, 0)
	case map[string]any:
		for name, inner := range value {
			if strings.ContainsRune(name, 0) {
				return strings.Join(path, "."), true
			}
			if field, found := nulField(inner, append(path, name)); found {
				return field, true
			}
		}
	case []any:
		for _, inner := range value {
			if field, found := nulField(inner, path); found {
				return field, true
			}
		}
	}
	return "", false
}

// violation turns the validator's finding into a problem that names the field, in both languages, and never shows the
// value.
func violation(parameter *openapi3.Parameter, err error) error {
	found, ok := errors.AsType[*openapi3.SchemaError](err)
	if !ok {
		return unreadable(parameter, err)
	}
	field := strings.Join(found.JSONPointer(), ".")
	if parameter != nil {
		field = parameter.Name
	}
	if name, unknown := unsupported(found); unknown {
		if field != "" {
			name = field + "." + name
		}
		return unknownField(name, found.Schema.Properties)
	}
	english, spanish := describe(found)
	subject, sujeto := field, field
	if field == "" {
		subject, sujeto = "The body", "El cuerpo"
		if _, object := found.Value.(map[string]any); object && found.SchemaField == "oneOf" {
			field = alternatives(found.Schema)[0]
		}
	}
	return invalid(field, subject+" "+english+".", sujeto+" "+spanish+".")
}

// unreadable is a parameter that is not even of its type, or is not there.
func unreadable(parameter *openapi3.Parameter, err error) error {
	if parameter == nil {
		return invalid("", "The body is not valid.", "El cuerpo no es válido.")
	}
	name, english, spanish := parameter.Name, "", ""
	if errors.Is(err, openapi3filter.ErrInvalidRequired) {
		english, spanish = "is missing", "falta"
	} else {
		english, spanish = typed(parameter.Schema.Value)
	}
	return invalid(name, name+" "+english+".", name+" "+spanish+".")
}

// unsupported finds the name of a property that the schema does not have.
func unsupported(found *openapi3.SchemaError) (string, bool) {
	if found.SchemaField != "properties" {
		return "", false
	}
	object, ok := found.Value.(map[string]any)
	if !ok {
		return "", false
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if _, known := found.Schema.Properties[name]; !known {
			return name, true
		}
	}
	return "", false
}
