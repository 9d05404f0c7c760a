package main

// This file stands beside the log: an event's JSON with its sealed texts opened, for an operator who may.

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"

	"github.com/nidohq/nido/domain"
	"github.com/nidohq/nido/projections"
)

// erasedText stands where the text's key has been destroyed.
const erasedText = "(erased)"

// opened replaces every sealed text in an event by what it says.
func opened(ctx context.Context, keys projections.Opener, data json.RawMessage) (json.RawMessage, error) {
	var document any
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err := decoder.Decode(&document); err != nil {
		return nil, err
	}
	found := &sealedTexts{}
	document = found.replace(document)
	if len(found.texts) == 0 {
		return data, nil
	}
	plain, erased, err := keys.Open(ctx, found.texts)
	if err != nil {
		return nil, err
	}
	for i, put := range found.puts {
		if erased[i] {
			put(erasedText)
		} else {
			put(string(plain[i]))
		}
	}
	return json.Marshal(document)
}

// sealedTexts are the places in a document at which domain.Sealed stands.
type sealedTexts struct {
	texts []domain.Sealed
	puts  []func(text string)
}

// replace walks through a document; where a sealed text stands, a pointer to what it will say takes its place.
func (s *sealedTexts) replace(node any) any {
	switch node := node.(type) {
	case []any:
		for i := range node {
			node[i] = s.replace(node[i])
		}
	case map[string]any:
		if text, ok := asSealed(node); ok {
			said := new(string)
			s.texts = append(s.texts, text)
			s.puts = append(s.puts, func(text string) { *said = text })
			return said
		}
		for name := range node {
			node[name] = s.replace(node[name])
		}
	}
	return node
}

// asSealed recognises the JSON of a domain.Sealed: nothing but a data key's id and a text.
func asSealed(node map[string]any) (domain.Sealed, bool) {
	key, isKey := node["key"].(string)
	_, isData := node["data"].(string)
	if len(node) != 2 || !isKey || !isData || !strings.HasPrefix(key, "dk_") {
		return domain.Sealed{}, false
	}
	encoded, err := json.Marshal(node)
	if err != nil {
		return domain.Sealed{}, false
	}
	var text domain.Sealed
	err = json.Unmarshal(encoded, &text)
	return text, err == nil && text.Key == key
}
