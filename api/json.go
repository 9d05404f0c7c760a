package api

// This file stands where a body is read before anything is believed of it. encoding/json forgives what lets a checked
// body mean something else once it is decoded: a field that occurs twice is checked in its last form and merged from
// both, a field in other letters is taken for the one that was checked, and broken UTF-8 is replaced without a word.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/getkin/kin-openapi/openapi3"
)

// maxDepth bounds how deep a body is nested: ours have five levels, tools of OpenAI's clients some ten.
const maxDepth = 100

var errNotJSON = errors.New("the body is not one JSON value")

// decodeAny reads one JSON value, with its numbers as they were written. Its errors are problems of the caller's.
func decodeAny(body []byte) (any, error) {
	switch {
	case !utf8.Valid(body):
		return nil, invalid("", "The body is not valid UTF-8.", "El cuerpo no es UTF-8 válido.")
	case !json.Valid(body):
		return nil, notJSON(errNotJSON)
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	return readValue(decoder, nil)
}

func readValue(decoder *json.Decoder, path []string) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, notJSON(err)
	}
	if len(path) > maxDepth {
		return nil, invalid("", fmt.Sprintf("The body is nested more than %d levels deep.", maxDepth), fmt.Sprintf("El cuerpo tiene más de %d niveles anidados.", maxDepth))
	}
	switch token {
	case json.Delim('{'):
		return readObject(decoder, path)
	case json.Delim('['):
		return readArray(decoder, path)
	}
	return token, nil
}

func readObject(decoder *json.Decoder, path []string) (any, error) {
	object := map[string]any{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, notJSON(err)
		}
		name, _ := token.(string) // the value is valid, so this is a name
		here := append(path, name)
		if _, twice := object[name]; twice {
			field := strings.Join(here, ".")
			return nil, repeated(field)
		}
		if object[name], err = readValue(decoder, here); err != nil {
			return nil, err
		}
	}
	_, err := decoder.Token()
	return object, err
}

func readArray(decoder *json.Decoder, path []string) (any, error) {
	array := []any{}
	for decoder.More() {
		item, err := readValue(decoder, append(path, fmt.Sprint(len(array))))
		if err != nil {
			return nil, err
		}
		array = append(array, item)
	}
	_, err := decoder.Token()
	return array, err
}

// otherLetters finds a field that differs from one of its schema's by its letters' case only. Where unknown fields are
// passed over, it would be decoded as that one without having been checked.
func otherLetters(schema *openapi3.Schema, value any, path []string) (field, name string, found bool) {
	switch value := value.(type) {
	case map[string]any:
		for name, inner := range value {
			here := append(path, name)
			if property := schema.Properties[name]; property != nil {
				if field, name, found := otherLetters(property.Value, inner, here); found {
					return field, name, true
				}
				continue
			}
			for known := range schema.Properties {
				if strings.EqualFold(known, name) {
					return strings.Join(here, "."), known, true
				}
			}
		}
	case []any:
		for i, item := range value {
			if schema.Items == nil {
				break
			}
			if field, name, found := otherLetters(schema.Items.Value, item, append(path, fmt.Sprint(i))); found {
				return field, name, true
			}
		}
	}
	return "", "", false
}
