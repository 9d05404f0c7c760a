package api

// This file stands before every request: what openapi.yaml says about each operation, read once at start. A route that
// the document does not describe, or describes without a scope, refuses to start.

import (
	_ "embed"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"

	"github.com/nidohq/nido/domain/apikey"
)

//go:embed openapi.yaml
var document []byte

// operation is one method of one route.
type operation struct {
	id           string
	method       string
	route        string // the template: /api/agents/{id}
	scope        apikey.Scope
	open         bool // needs no key
	onAgentHost  bool
	onManagement bool
	item         *openapi3.PathItem
	spec         *openapi3.Operation
	parameters   openapi3.Parameters // of the path and of the operation
	query        []string            // names of the query parameters
	body         *openapi3.Schema    // nil if it takes none
	bodyRequired bool
	idempotent   bool // takes an Idempotency-Key
	chat         bool
	openAI       bool // speaks OpenAI's API
	streams      bool // may answer with a stream, and then takes as long as the turn
	deprecations []deprecation
	logAnswer    bool       // whether the request log keeps the answer's body
	secrets      [][]string // paths of the fields of bodies that never reach the request log
}

// The values of x-nido-scope that are no scopes.
const (
	scopeNone = "none" // no key is needed
	scopeAny  = "any"  // any key will do
)

// contract is openapi.yaml as the server goes by it. Nobody changes it.
type contract struct {
	operations map[string]*operation // by method and path
	json       []byte                // as it is served
}

func readContract(document []byte) (contract, error) {
	doc, err := loadDocument(document)
	if err != nil {
		return contract{}, err
	}
	ops, err := operations(doc)
	if err != nil {
		return contract{}, err
	}
	written, err := doc.MarshalJSON()
	if err != nil {
		return contract{}, fmt.Errorf("write openapi.json: %w", err)
	}
	return contract{ops, written}, nil
}

func loadDocument(document []byte) (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(document)
	if err != nil {
		return nil, fmt.Errorf("load openapi.yaml: %w", err)
	}
	return doc, nil
}

// operations reads every operation of the document.
func operations(doc *openapi3.T) (map[string]*operation, error) {
	found := map[string]*operation{}
	secrets := 0
	for route, item := range doc.Paths.Map() {
		for method, spec := range item.Operations() {
			op := &operation{
				id: spec.OperationID, method: method, route: route, item: item, spec: spec,
				parameters: slices.Concat(item.Parameters, spec.Parameters), chat: strings.HasPrefix(spec.OperationID, "chat"),
			}
			if err := op.read(); err != nil {
				return nil, fmt.Errorf("openapi.yaml: %s %s: %w", method, route, err)
			}
			secrets += len(op.secrets)
			found[method+" "+route] = op
		}
	}
	if secrets == 0 {
		return nil, fmt.Errorf("openapi.yaml: no field carries x-nido-secret: the request log would keep keys")
	}
	return found, nil
}

func (op *operation) read() error {
	scope, _ := op.spec.Extensions["x-nido-scope"].(string)
	switch {
	case scope == scopeNone:
		op.open = true
	case scope == scopeAny:
	case slices.Contains(apikey.Scopes, apikey.Scope(scope)):
		op.scope = apikey.Scope(scope)
	default:
		return fmt.Errorf("x-nido-scope is %q, which is no scope", scope)
	}
	switch host := op.spec.Extensions["x-nido-host"]; host {
	case "any":
		op.onAgentHost, op.onManagement = true, true
	case "agent":
		op.onAgentHost = true
	case "management":
		op.onManagement = true
	default:
		return fmt.Errorf("x-nido-host is %q", host)
	}
	op.openAI = op.spec.Extensions["x-nido-openai"] == true
	op.logAnswer = op.spec.Extensions["x-nido-log-answer"] != false
	for _, parameter := range op.parameters {
		switch {
		case parameter.Value.In == openapi3.ParameterInQuery:
			op.query = append(op.query, parameter.Value.Name)
		case parameter.Value.Name == idempotencyHeader:
			op.idempotent = true
		}
	}
	if op.spec.RequestBody != nil {
		media := op.spec.RequestBody.Value.Content["application/json"]
		if media == nil {
			return fmt.Errorf("its body is not application/json")
		}
		op.body, op.bodyRequired = media.Schema.Value, op.spec.RequestBody.Value.Required
		op.secrets = append(op.secrets, secretPaths(op.body, nil)...)
	}
	var err error
	if op.deprecations, err = op.deprecated(); err != nil {
		return err
	}
	for _, response := range op.spec.Responses.Map() {
		op.streams = op.streams || response.Value.Content["text/event-stream"] != nil
		for _, media := range response.Value.Content {
			op.secrets = append(op.secrets, secretPaths(media.Schema.Value, nil)...)
		}
	}
	return nil
}

// secretPaths finds the fields marked x-nido-secret; "*" stands for every item of an array.
func secretPaths(schema *openapi3.Schema, path []string) [][]string {
	if schema == nil || len(path) > 8 {
		return nil
	}
	if marked, _ := schema.Extensions["x-nido-secret"].(bool); marked {
		return [][]string{slices.Clone(path)}
	}
	var found [][]string
	for name, property := range schema.Properties {
		found = append(found, secretPaths(property.Value, append(path, name))...)
	}
	if schema.Items != nil {
		found = append(found, secretPaths(schema.Items.Value, append(path, "*"))...)
	}
	for _, part := range slices.Concat(schema.AllOf, schema.AnyOf, schema.OneOf) {
		found = append(found, secretPaths(part.Value, path)...)
	}
	return found
}

// methods are those that the operation's route answers to: HEAD comes with GET.
func (op *operation) methods() []string {
	if op.method == http.MethodGet {
		return []string{http.MethodGet, http.MethodHead}
	}
	return []string{op.method}
}
