package e2e

// This file makes requests that the document allows: values from its schemas, ids from what earlier answers told of.

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/getkin/kin-openapi/openapi3"
	"pgregory.net/rapid"
)

// draw makes a request: half of them as the document allows, the others with one fault.
func (c *contract) draw(rt *rapid.T, op operation) request {
	in := request{op: op, method: op.method, path: op.route, header: http.Header{}}
	if op.spec.Extensions["x-nido-host"] == "agent" {
		in.host = c.slug
	}
	var body any
	if schema := op.body(); schema != nil && (op.spec.RequestBody.Value.Required || rapid.Bool().Draw(rt, "body")) {
		body = c.value(rt, op, schema, "", 0)
		if fault := fits(schema, asJSON(body)); fault != nil {
			rt.Fatalf("the test makes a body that the document does not allow: %v\n%v", fault, body)
		}
		in.body = encoded(body)
		in.header.Set("Content-Type", "application/json")
	}
	c.aim(rt, &in)
	if rapid.Bool().Draw(rt, "as the document allows") {
		if len(in.body) > 1<<20 { // an allowed text of more bytes than a body may have
			in.fault, in.wrong = "a body of more than 1 MiB", true
		}
		return in
	}
	c.spoil(rt, &in, body)
	return in
}

// aim fills path, query and headers.
func (c *contract) aim(rt *rapid.T, in *request) {
	segments := strings.Split(in.op.route, "/")
	path, query := map[string]string{}, url.Values{}
	for _, parameter := range in.op.parameters() {
		p := parameter.Value
		switch p.In {
		case "path":
			at := slices.Index(segments, "{"+p.Name+"}")
			path[p.Name] = c.pick(rt, in.op, segments[at-1], p.Schema.Value)
		case "query":
			if p.Required || rapid.IntRange(0, 3).Draw(rt, "with "+p.Name) == 0 {
				if value := c.parameter(rt, in.op, p); value != "" || p.Required { // an empty list has no form in a query
					query.Set(p.Name, value)
				}
			}
		case "header":
			if p.Name == "Last-Event-ID" && slices.Contains(c.known("turns"), path["turnId"]) && rapid.Bool().Draw(rt, "from there") {
				in.header.Set(p.Name, fmt.Sprintf("%s:%s", path["turnId"], rapid.SampledFrom([]string{"0", "1", "7", "23", "9999999", "end"}).Draw(rt, "place")))
			} else if p.Name == "Idempotency-Key" && rapid.IntRange(0, 3).Draw(rt, "idempotent") == 0 { // one of its own: else it is another request's
				in.header.Set(p.Name, fmt.Sprintf("fuzz-%d", c.keys.Add(1)))
			}
		}
	}
	if _, named := path["id"]; named && strings.Contains(in.op.route, "/conversations/") {
		c.mu.Lock()
		query.Set("agentId", c.agents[path["id"]])
		c.mu.Unlock()
	}
	for i, segment := range segments {
		if name, ok := strings.CutPrefix(segment, "{"); ok {
			segments[i] = url.PathEscape(path[strings.TrimSuffix(name, "}")])
		}
	}
	in.path = strings.Join(segments, "/")
	if query.Has("cursor") {
		query.Del("cursor")
		if cursor := c.page(in.path, query); cursor != "" {
			query.Set("cursor", cursor)
		}
	}
	if len(query) > 0 {
		in.path += "?" + query.Encode()
	}
	if rapid.IntRange(0, 4).Draw(rt, "problem") == 0 {
		in.header.Set("Accept", "application/problem+json")
	}
	if in.method == http.MethodGet && rapid.IntRange(0, 9).Draw(rt, "head") == 0 {
		in.method = http.MethodHead
	}
}

// pick is an id that is there, nearly always.
func (c *contract) pick(rt *rapid.T, op operation, kind string, schema *openapi3.Schema) string {
	switch kind {
	case "agent":
		kind = "agents"
	case "models":
		kind = "slugs"
	}
	known := c.known(kind)
	if kind == "agents" && (op.method == http.MethodGet || op.spec.Extensions["x-nido-scope"] == "chat") {
		known = append(known, c.agent)
	}
	if kind == "slugs" && op.spec.Extensions["x-nido-host"] == "agent" {
		known = []string{c.slug, c.agent} // its host knows no other
	}
	if len(known) == 0 || rapid.IntRange(0, 19).Draw(rt, "unknown "+kind) == 0 {
		return fmt.Sprint(c.value(rt, op, schema, "", 0))
	}
	return known[rapid.IntRange(0, 1<<20).Draw(rt, kind)%len(known)]
}

func (c *contract) parameter(rt *rapid.T, op operation, p *openapi3.Parameter) string {
	switch value := c.value(rt, op, p.Schema.Value, p.Name, 0).(type) {
	case []any:
		texts := make([]string, len(value))
		for i, one := range value {
			texts[i] = fmt.Sprint(one)
		}
		return strings.Join(texts, ",")
	default:
		return fmt.Sprint(value)
	}
}

// known are the ids of one kind.
func (c *contract) known(kind string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.things[kind])
}

// page is the next one of a list that has been asked before.
func (c *contract) page(path string, query url.Values) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pages[listed(path+"?"+query.Encode())]
}

// value makes one that a schema allows.
func (c *contract) value(rt *rapid.T, op operation, schema *openapi3.Schema, name string, depth int) any {
	switch name {
	case "agentId", "agentIds.":
		return c.pick(rt, op, "agents", schema)
	case "model":
		return c.pick(rt, op, "slugs", schema)
	case "keyId":
		return c.pick(rt, op, "keys", schema)
	case "conversationId":
		if rapid.Bool().Draw(rt, "a conversation that is there") {
			return c.pick(rt, op, "conversations", schema)
		}
	}
	if branches := slices.Concat(schema.AnyOf, schema.OneOf); len(branches) > 0 && schema.Type == nil {
		return c.value(rt, op, branches[rapid.IntRange(0, len(branches)-1).Draw(rt, "branch")].Value, name, depth)
	}
	if len(schema.Enum) > 0 {
		return rapid.SampledFrom(schema.Enum).Draw(rt, name)
	}
	kinds := schema.Type.Slice()
	if len(kinds) == 0 {
		return rapid.SampledFrom([]any{"x", 1, true, nil}).Draw(rt, name)
	}
	switch rapid.SampledFrom(kinds).Draw(rt, "type") {
	case "object":
		return c.object(rt, op, schema, depth)
	case "array":
		list := c.list(rt, op, schema, name, depth)
		if name == "messages" && rapid.IntRange(0, 3).Draw(rt, "answerable") > 0 {
			return answerable(list)
		}
		return list
	case "string":
		return text(rt, schema)
	case "integer":
		return rapid.SampledFrom(bounds(schema, 1)).Draw(rt, name)
	case "number":
		return rapid.SampledFrom(append(bounds(schema, 0.001), 0.5, 1.25)).Draw(rt, name)
	case "boolean":
		return rapid.Bool().Draw(rt, name)
	}
	return nil
}

// bounds are numbers at a schema's limits and between them.
func bounds(schema *openapi3.Schema, step float64) []any {
	low, high := 0.0, 1e9
	if schema.Min != nil {
		low = *schema.Min
	}
	if schema.Max != nil {
		high = *schema.Max
	}
	return []any{json.Number(plain(low)), json.Number(plain(high)), json.Number(plain(min(low+step, high))), json.Number(plain(max(high-step, low)))}
}

func plain(number float64) string {
	return strings.TrimRight(strings.TrimRight(fmt.Sprintf("%.3f", number), "0"), ".")
}

func (c *contract) object(rt *rapid.T, op operation, schema *openapi3.Schema, depth int) map[string]any {
	object := map[string]any{}
	wanted := slices.Clone(schema.Required)
	var other []string // of which a oneOf wants only one
	if len(schema.OneOf) > 0 {
		chosen := rapid.IntRange(0, len(schema.OneOf)-1).Draw(rt, "branch")
		for i, branch := range schema.OneOf {
			if i == chosen {
				wanted = append(wanted, branch.Value.Required...)
			} else {
				other = append(other, branch.Value.Required...)
			}
		}
	}
	names := slices.Sorted(maps.Keys(schema.Properties))
	for _, name := range names {
		if !slices.Contains(other, name) && (slices.Contains(wanted, name) || depth < 4 && rapid.IntRange(0, 2).Draw(rt, "with "+name) == 0) {
			object[name] = c.value(rt, op, schema.Properties[name].Value, name, depth+1)
		}
	}
	if uint64(len(object)) < schema.MinProps && len(names) > 0 {
		name := rapid.SampledFrom(names).Draw(rt, "at least")
		object[name] = c.value(rt, op, schema.Properties[name].Value, name, depth+1)
	}
	if more := schema.AdditionalProperties.Schema; more != nil {
		for range rapid.IntRange(0, 3).Draw(rt, "entries") {
			object[text(rt, &openapi3.Schema{MinLength: 1})] = c.value(rt, op, more.Value, "", depth+1)
		}
	}
	return object
}

func (c *contract) list(rt *rapid.T, op operation, schema *openapi3.Schema, name string, depth int) []any {
	most := schema.MinItems + 3
	if schema.MaxItems != nil {
		most = min(most, *schema.MaxItems)
	}
	list := []any{}
	for range rapid.IntRange(int(schema.MinItems), int(most)).Draw(rt, "items") {
		item := c.value(rt, op, schema.Items.Value, name+".", depth+1)
		if !schema.UniqueItems || !slices.ContainsFunc(list, func(other any) bool { return fmt.Sprint(other) == fmt.Sprint(item) }) {
			list = append(list, item)
		}
	}
	return list
}

// answerable leaves of messages what an agent can answer: texts, and the user's as the last.
func answerable(messages []any) []any {
	messages = slices.DeleteFunc(messages, func(message any) bool {
		fields, _ := message.(map[string]any)
		_, parts := fields["content"].([]any)
		return parts || fields["role"] == "tool" || fields["role"] == "function"
	})
	return append(messages, map[string]any{"role": "user", "content": []any{map[string]any{"type": "text", "text": "hola"}}})
}

// odd are texts that are allowed nearly everywhere and that something may stumble over.
var odd = []string{
	"hola", "break", " ", "\t\n\r", "Ñandú", "👩‍👩‍👧‍👦", "\u202e\u2028\u2029", "\ufeff", "\uffff", "' OR 1=1 --", "\"; DROP TABLE read.agents; --", "{{7*7}}", "${x}", "%s%n%00",
	"<script>alert(1)</script>", "../../etc/passwd", "null", "true", "-1", "1e999", "\\", "\\u0000", "\x01\x1f\x7f", "a\u0301", "ﷺ", "İ", "data: [DONE]\n\n", "\r\nX: y", "[DONE]", "agt_",
}

// dates are instants at the edges of what stores can keep.
var dates = []string{
	"2026-03-01T00:00:00Z", "2026-03-01T00:00:00.123456789+14:00", "0001-01-01T00:00:00Z", "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z", "1969-12-31T23:59:59Z",
	"1899-12-31T23:59:59Z", "2300-01-01T00:00:00Z", "2262-04-11T23:47:17Z", "2106-02-07T06:28:16Z", "2024-02-29T12:00:00-12:00",
}

// text makes one that a schema allows, without the character NUL, which is refused everywhere but in chats.
func text(rt *rapid.T, schema *openapi3.Schema) string {
	switch {
	case schema.Format == "date-time":
		return rapid.SampledFrom(dates).Draw(rt, "time")
	case schema.Pattern != "":
		made := rapid.StringMatching(schema.Pattern).Draw(rt, "text")
		if schema.MaxLength == nil || uint64(utf8.RuneCountInString(made)) <= *schema.MaxLength {
			return made
		}
		return made[:*schema.MaxLength]
	}
	most := 100
	if schema.MaxLength != nil {
		most = int(*schema.MaxLength)
	}
	var made string
	switch rapid.IntRange(0, 20).Draw(rt, "kind of text") {
	case 0:
		made = strings.Repeat(rapid.SampledFrom([]string{"x", "é", "👋", "\""}).Draw(rt, "filling"), most)
	case 1, 2, 3, 4, 5, 6, 7, 8:
		made = rapid.SampledFrom(odd).Draw(rt, "text")
	default:
		made = rapid.StringN(int(schema.MinLength), min(most, 60), -1).Draw(rt, "text")
	}
	made = strings.ReplaceAll(strings.ToValidUTF8(made, "?"), "\x00", "0")
	if runes := []rune(made); len(runes) > most {
		made = string(runes[:most])
	}
	return made + strings.Repeat("x", max(0, int(schema.MinLength)-utf8.RuneCountInString(made)))
}

// encoded is JSON as a client writes it.
func encoded(value any) []byte {
	data, err := json.Marshal(value)
	if err != nil {
		panic(err) // a mistake in this test
	}
	return data
}

// asJSON is a value as a reader of its JSON sees it.
func asJSON(value any) any {
	var read any
	if err := json.Unmarshal(encoded(value), &read); err != nil {
		panic(err)
	}
	return read
}
