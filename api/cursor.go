package api

// This file stands at the lists: where the next page begins. A cursor is opaque, and bound to the question that it came
// from: under other filters it would skip or repeat without a word.

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/nidohq/nido/projections"
)

const defaultPage = 20

type cursor struct {
	Of    []byte          `json:"f"` // hash of account, path and filters
	Place json.RawMessage `json:"p"`
}

// question identifies what a list was asked: everything but the page.
func question(r *http.Request) []byte {
	query := url.Values{}
	for name, values := range r.URL.Query() {
		if name != "cursor" && name != "limit" {
			query[name] = values
		}
	}
	hash := sha256.Sum256([]byte(exchangeOf(r).caller.Account + "\n" + r.URL.Path + "\n" + query.Encode()))
	return hash[:12]
}

// writeCursor names a place in the answer to a question; no place is no cursor.
func writeCursor[P any](r *http.Request, place *P) (*string, error) {
	if place == nil {
		return nil, nil
	}
	where, err := json.Marshal(place)
	if err != nil {
		return nil, err
	}
	whole, err := json.Marshal(cursor{Of: question(r), Place: where})
	if err != nil {
		return nil, err
	}
	text := base64.RawURLEncoding.EncodeToString(whole)
	return &text, nil
}

// readCursor finds the place again; no cursor is no place.
func readCursor[P any](r *http.Request, text *string) (*P, error) {
	if text == nil {
		return nil, nil
	}
	whole, err := base64.RawURLEncoding.DecodeString(*text)
	var read cursor
	if err == nil {
		err = json.Unmarshal(whole, &read)
	}
	place := new(P)
	if err == nil {
		err = json.Unmarshal(read.Place, place)
	}
	switch {
	case err != nil:
		return nil, invalid("cursor", "This is not a cursor of ours.", "Este cursor no es nuestro.")
	case string(read.Of) != string(question(r)):
		return nil, invalid("cursor", "This cursor belongs to a list with other filters.", "Este cursor pertenece a una lista con otros filtros.")
	}
	return place, nil
}

// page reads the parameters that every list has.
func page(r *http.Request, limit *int, text *string) (projections.Page, error) {
	after, err := readCursor[projections.Cursor](r, text)
	return projections.Page{Limit: or(limit, defaultPage), After: after}, err
}
