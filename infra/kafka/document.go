package kafka

// This file stands on both sides of the log: a record's value is written, and read, by every projector and again at each
// rebuild.

import (
	"bytes"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"github.com/nidohq/nido/domain"
)

// writeDocument writes a record's value, the same bytes that encoding/json would make of it. The events' data, which is
// nearly all of it, mostly is such bytes already: it is looked at and copied, instead of being compacted byte by byte.
func writeDocument(doc document) ([]byte, error) {
	events, size := doc.Events, 0
	for _, event := range events {
		if !compact(event.Data) {
			return json.Marshal(doc)
		}
		size += len(event.Type) + len(event.Data) + len(`{"type":"","schema":12345,"data":},`)
	}
	doc.Events = []domain.Stored{}
	head, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	value := slices.Grow(head[:len(head)-len(`]}`)], size+len(`]}`))
	for i, event := range events {
		if i > 0 {
			value = append(value, ',')
		}
		name, err := json.Marshal(event.Type)
		if err != nil {
			return nil, err
		}
		value = append(append(value, `{"type":`...), name...)
		value = strconv.AppendInt(append(value, `,"schema":`...), int64(event.Schema), 10)
		value = append(append(append(value, `,"data":`...), event.Data...), '}')
	}
	return append(value, `]}`...), nil
}

// compact reports whether encoding/json would leave a value as it is: there is nothing between its tokens, and none of the
// characters in its texts that are escaped. The last of those begin with the byte 0xE2.
func compact(data []byte) bool {
	return !bytes.ContainsAny(data, " \t\r\n<>&") && bytes.IndexByte(data, 0xE2) < 0 && gjson.ValidBytes(data)
}

// readDocument reads a record's value. What we write ourselves is read in one pass; whatever looks different in any way
// is left to encoding/json, so that no value has two meanings.
func readDocument(value []byte) (document, error) {
	if doc, ok := readOwn(value); ok {
		return doc, nil
	}
	var doc document
	err := json.Unmarshal(value, &doc) // unknown fields are a newer writer's optional ones
	return doc, err
}

var (
	documentFields = []string{"account", "actor", "base", "command", "time", "events"}
	actorFields    = []string{"kind", "id"}
	eventFields    = []string{"type", "schema", "data"}
)

// readOwn reads a value that has every field once, under its exact name, and none besides.
func readOwn(value []byte) (doc document, ok bool) {
	if !gjson.ValidBytes(value) || !utf8.Valid(value) {
		return document{}, false
	}
	ok = eachField(gjson.ParseBytes(value), documentFields, func(i int, field gjson.Result) (ok bool) {
		switch documentFields[i] {
		case "account":
			doc.Account, ok = plainText(field)
		case "actor":
			ok = eachField(field, actorFields, func(i int, field gjson.Result) (ok bool) {
				into := []*string{&doc.Actor.Kind, &doc.Actor.ID}[i]
				*into, ok = plainText(field)
				return ok
			})
		case "base":
			var base int64
			base, ok = integer(field)
			doc.Base = domain.Version(base)
		case "command":
			doc.Command, ok = plainText(field)
		case "time":
			ok = doc.Time.UnmarshalJSON([]byte(field.Raw)) == nil && field.Type == gjson.String
		case "events":
			doc.Events, ok = ownEvents(field)
		}
		return ok
	})
	return doc, ok
}

func ownEvents(list gjson.Result) (events []domain.Stored, ok bool) {
	if !list.IsArray() {
		return nil, false
	}
	ok = true
	list.ForEach(func(_, item gjson.Result) bool {
		var event domain.Stored
		ok = eachField(item, eventFields, func(i int, field gjson.Result) (ok bool) {
			switch eventFields[i] {
			case "type":
				event.Type, ok = plainText(field)
			case "schema":
				var schema int64
				schema, ok = integer(field)
				event.Schema = int(schema)
			case "data":
				event.Data, ok = json.RawMessage(field.Raw), true
			}
			return ok
		})
		events = append(events, event)
		return ok
	})
	return events, ok
}

// eachField visits the fields of an object that has exactly these, in any order.
func eachField(object gjson.Result, names []string, visit func(i int, field gjson.Result) bool) bool {
	if !object.IsObject() {
		return false
	}
	seen, ok := 0, true
	object.ForEach(func(name, field gjson.Result) bool {
		i := slices.Index(names, name.Str)
		if ok = i >= 0 && seen&(1<<i) == 0 && visit(i, field); ok {
			seen |= 1 << i
		}
		return ok
	})
	return ok && seen == 1<<len(names)-1
}

// plainText is a string without escapes, which the two readers might understand in two ways. Its bytes are its own: it
// must not keep the whole value in memory.
func plainText(field gjson.Result) (string, bool) {
	return strings.Clone(field.Str), field.Type == gjson.String && !strings.Contains(field.Raw, `\`)
}

func integer(field gjson.Result) (int64, bool) {
	number, err := strconv.ParseInt(field.Raw, 10, 64)
	return number, err == nil && field.Type == gjson.Number
}
