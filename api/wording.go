package api

// This file stands beside the check of a request: what is wrong with it, in words, in both languages. They name what there
// is instead, and never show the value.

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
)

// unknownField refuses a field of a body, and names those that there are.
func unknownField(path string, known openapi3.Schemas) *Problem {
	names := strings.Join(slices.Sorted(maps.Keys(known)), ", ")
	if names == "" {
		return invalid(path, fmt.Sprintf("There is no field %q here.", path), fmt.Sprintf("No existe el campo %q aquí.", path))
	}
	return invalid(path, fmt.Sprintf("There is no field %q here. The fields are: %s.", path, names), fmt.Sprintf("No existe el campo %q aquí. Los campos son: %s.", path, names))
}

// misspelt refuses a field in other letters than it has.
func misspelt(path, name string) *Problem {
	return invalid(path, fmt.Sprintf("There is no field %q here: it is written %q.", path, name), fmt.Sprintf("No existe el campo %q aquí: se escribe %q.", path, name))
}

// unfit refuses a value of the right kind that what it is read into cannot hold: 1e2 is an integer to a schema, and none to
// who reads it.
func unfit(found *json.UnmarshalTypeError) *Problem {
	if found.Type != nil && found.Type.Kind() >= reflect.Int && found.Type.Kind() <= reflect.Uint64 {
		return invalid(found.Field, found.Field+" must be an integer in plain digits.", found.Field+" debe ser un número entero escrito solo con cifras.")
	}
	return invalid(found.Field, found.Field+" has the wrong type.", found.Field+" tiene un tipo incorrecto.")
}

// repeated refuses what may be there once.
func repeated(field string) *Problem {
	return invalid(field, field+" is there twice.", field+" está dos veces.")
}

// unknownParameter refuses a parameter of the query, and names those that there are.
func unknownParameter(name string, known []string) *Problem {
	if len(known) == 0 {
		return invalid(name, fmt.Sprintf("There is no parameter %q: this route has none.", name), fmt.Sprintf("No existe el parámetro %q: esta ruta no tiene ninguno.", name))
	}
	names := strings.Join(slices.Sorted(slices.Values(known)), ", ")
	return invalid(name, fmt.Sprintf("There is no parameter %q here. The parameters are: %s.", name, names), fmt.Sprintf("No existe el parámetro %q aquí. Los parámetros son: %s.", name, names))
}

// alternatives lists the fields of which a schema wants exactly one.
func alternatives(schema *openapi3.Schema) []string {
	var names []string
	for _, branch := range schema.OneOf {
		names = append(names, branch.Value.Required...)
	}
	if len(names) == 0 {
		return []string{""}
	}
	return names
}

// patterns says what the document's regular expressions mean to people.
var patterns = map[string][2]string{
	`^[A-Za-z0-9._:-]{1,128}$`: {
		"must have 1 to 128 characters out of A-Z, a-z, 0-9 and . _ : -", "debe tener de 1 a 128 caracteres de A-Z, a-z, 0-9 y . _ : -",
	},
	`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`: {
		"must have 1 to 63 characters out of a-z, 0-9 and, between those, hyphens", "debe tener de 1 a 63 caracteres de a-z, 0-9 y, entre ellos, guiones",
	},
	`^[1-5]([0-9][0-9]|xx)$`:  {"must be a status such as 429, or a class of them such as 4xx", "debe ser un estado como 429, o una clase como 4xx"},
	`^[A-Za-z0-9_+/-]+$`:      {"must be the name of a time zone such as America/Bogota", "debe ser el nombre de una zona horaria como America/Bogota"},
	`^[a-z_]+$`:               {"must have a-z and _ only", "debe tener solo a-z y _"},
	`^key_[A-Za-z0-9]{1,64}$`: {"must be the id of a key, key_…", "debe ser el id de una clave, key_…"},
	`^[!-~]+$`: {
		"must have printable ASCII characters only, and no spaces", "debe tener solo caracteres ASCII imprimibles, sin espacios",
	},
}

// describe says in both languages what a schema wants.
func describe(found *openapi3.SchemaError) (english, spanish string) {
	schema := found.Schema
	switch found.SchemaField {
	case "required":
		return "is missing", "falta"
	case "type", "nullable":
		return typed(schema)
	case "minLength":
		if schema.MinLength == 1 {
			return "must not be empty", "no puede estar vacío"
		}
		return both("must have at least %s characters", "debe tener al menos %s caracteres", float64(schema.MinLength))
	case "minItems":
		if schema.MinItems == 1 {
			return "must not be empty", "no puede estar vacío"
		}
		return both("must have at least %s items", "debe tener al menos %s elementos", float64(schema.MinItems))
	case "maxLength":
		return both("must have at most %s characters", "debe tener como máximo %s caracteres", float64(*schema.MaxLength))
	case "minimum":
		return both("must be at least %s", "debe ser al menos %s", *schema.Min)
	case "maximum":
		return both("must be at most %s", "debe ser como máximo %s", *schema.Max)
	case "maxItems":
		return both("must have at most %s items", "debe tener como máximo %s elementos", float64(*schema.MaxItems))
	case "minProperties":
		if schema.MinProps == 1 {
			return "must name at least one field", "debe nombrar al menos un campo"
		}
		return both("must name at least %s fields", "debe nombrar al menos %s campos", float64(schema.MinProps))
	case "maxProperties":
		return both("must have at most %s entries", "debe tener como máximo %s entradas", float64(*schema.MaxProps))
	case "uniqueItems":
		return "must not name anything twice", "no puede repetir elementos"
	case "enum":
		texts := make([]string, len(schema.Enum))
		for i, value := range schema.Enum {
			texts[i] = fmt.Sprint(value)
		}
		list := strings.Join(texts, ", ")
		return "must be one of: " + list, "debe ser uno de: " + list
	case "pattern":
		if words, known := patterns[schema.Pattern]; known {
			return words[0], words[1]
		}
		return "must match " + schema.Pattern, "debe cumplir " + schema.Pattern
	case "format":
		if schema.Format == "date-time" {
			return "must be a time such as 2026-03-14T15:09:26Z (RFC 3339)", "debe ser una fecha y hora como 2026-03-14T15:09:26Z (RFC 3339)"
		}
		return "must be a " + schema.Format, "debe ser un " + schema.Format
	case "oneOf":
		if _, object := found.Value.(map[string]any); !object {
			return "must be of type object", "debe ser de tipo object"
		}
		list := strings.Join(alternatives(schema), ", ")
		return "must have exactly one of: " + list, "debe tener exactamente uno de: " + list
	}
	return "is not valid", "no es válido"
}

// typed says of which type a schema wants something to be.
func typed(schema *openapi3.Schema) (english, spanish string) {
	if schema == nil || schema.Type == nil {
		return "is of the wrong type", "tiene un tipo incorrecto"
	}
	kinds := schema.Type.Slice()
	return "must be of type " + strings.Join(kinds, " or "), "debe ser de tipo " + strings.Join(kinds, " o ")
}

// both fills in a number, written out.
func both(english, spanish string, value float64) (string, string) {
	text := strconv.FormatFloat(value, 'f', -1, 64)
	return fmt.Sprintf(english, text), fmt.Sprintf(spanish, text)
}
