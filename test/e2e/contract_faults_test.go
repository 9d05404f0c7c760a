package e2e

// This file spoils requests, one fault at a time.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/getkin/kin-openapi/openapi3"
	"pgregory.net/rapid"
)

// spoil gives a request one fault.
func (c *contract) spoil(rt *rapid.T, in *request, body any) {
	faults := []func(*rapid.T, *request){c.spoilHeaders, c.spoilPath, c.spoilQuery, c.spoilQuery, c.spoilMethod}
	if body != nil {
		spoil := func(rt *rapid.T, in *request) { c.spoilField(rt, in, body) }
		faults = append(faults, spoil, spoil, spoil, spoil, spoil, c.spoilBytes, c.spoilBytes, c.spoilMedia)
	}
	faults[rapid.IntRange(0, len(faults)-1).Draw(rt, "fault")](rt, in)
	if len(in.body) > 1<<20 {
		in.wrong = true
	}
}

// spot is a value in a body, and how to put another in its place.
type spot struct {
	path   string
	schema *openapi3.Schema
	value  any
	put    func(any)
}

// spots lists every value of a body with its schema.
func spots(schema *openapi3.Schema, value any, path string, put func(any)) []spot {
	for _, branch := range slices.Concat(schema.AnyOf, schema.OneOf) {
		if schema.Type == nil && fits(branch.Value, value) == nil {
			schema = branch.Value
			break
		}
	}
	found := []spot{{path, schema, value, put}}
	switch value := value.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(value)) {
			inner := schema.AdditionalProperties.Schema
			if property := schema.Properties[name]; property != nil {
				inner = property
			}
			if inner != nil {
				found = append(found, spots(inner.Value, value[name], path+"."+name, func(other any) { value[name] = other })...)
			}
		}
	case []any:
		for i, item := range value {
			if schema.Items != nil {
				found = append(found, spots(schema.Items.Value, item, fmt.Sprintf("%s.%d", path, i), func(other any) { value[i] = other })...)
			}
		}
	}
	return found
}

// spoilField puts something into the body that its schema does not allow there.
func (c *contract) spoilField(rt *rapid.T, in *request, body any) {
	root := asJSON(body)
	at := rapid.SampledFrom(spots(in.op.body(), root, "", func(other any) { root = other })).Draw(rt, "spot")
	name, other := misfit(rt, at, in.op)
	if name == "" {
		in.fault = "none after all"
		return
	}
	at.put(other)
	in.body, in.fault = bytes.ReplaceAll(encoded(root), []byte(`"1e400"`), []byte(`1e400`)), name+" at "+at.path
	in.wrong = !strings.HasPrefix(name, "perhaps ")
	if in.wrong && fits(in.op.body(), asJSON(root)) == nil && name != "a number too large for anybody" {
		in.wrong = false // the document allows it by another branch
	}
}

// misfit is a value that does not belong to a spot, and what is wrong with it.
func misfit(rt *rapid.T, at spot, op operation) (name string, value any) {
	schema := at.schema
	type choice struct {
		name  string
		value any
	}
	var choices []choice
	add := func(name string, value any) { choices = append(choices, choice{name, value}) }
	for kind, value := range map[string]any{"string": "x", "number": 1.5, "boolean": true, "array": []any{}, "object": map[string]any{}, "null": nil} {
		if schema.Type != nil && !schema.Type.Includes(kind) {
			add("a value of the type "+kind, value)
		}
	}
	switch value := at.value.(type) {
	case string:
		if schema.MaxLength != nil {
			add("a text that is too long", strings.Repeat("x", int(*schema.MaxLength)+1))
		}
		if schema.MinLength > 0 {
			add("an empty text", "")
		}
		if len(schema.Enum) > 0 {
			add("a value that is not listed", value+"x")
		}
		if schema.Pattern != "" {
			add("a text that does not match", "ñ \n!")
		}
		if schema.Format != "" {
			add("no "+schema.Format, "tomorrow")
			add("perhaps no "+schema.Format, rapid.SampledFrom([]string{"2026-02-30T00:00:00Z", "2026-03-01T24:00:00Z", "2026-03-01T00:00:60Z", "2026-03-01 00:00:00Z", "2026-03-01T00:00:00+99:99", "+12026-03-01T00:00:00Z", "9999-12-31T23:59:59-12:00", "0000-01-01T00:00:00+14:00"}).Draw(rt, "date"))
		}
		add("perhaps NUL", "a\x00b")
	case float64:
		if schema.Min != nil {
			add("a number below the least", *schema.Min-1)
		}
		if schema.Max != nil {
			add("a number above the most", *schema.Max+1)
		}
		if schema.Type.Is("integer") {
			add("a fraction", value+0.5)
		}
		add("a number too large for anybody", "1e400")
		add("perhaps a number too large for an int64", json.Number("9223372036854775808"))
	case []any:
		if schema.MaxItems != nil && *schema.MaxItems < 2000 {
			add("too many items", slices.Repeat([]any{"x"}, int(*schema.MaxItems)+1))
		}
		if schema.MinItems > 0 {
			add("too few items", []any{})
		}
		if schema.UniqueItems && len(value) > 0 {
			add("an item twice", append(slices.Clone(value), value[0]))
		}
	case map[string]any:
		less := maps.Clone(value)
		for name := range value {
			if slices.Contains(schema.Required, name) {
				delete(less, name)
				add("a field less", less)
				break
			}
		}
		if len(schema.Properties) > 0 {
			more, cased := maps.Clone(value), maps.Clone(value)
			more["colour"] = "red"
			for name := range value {
				cased[strings.ToUpper(name[:1])+name[1:]] = []any{map[string]any{}}
				break
			}
			if op.isOpenAI() {
				add("perhaps a field that it does not know", more)
			} else {
				add("a field that it does not know", more)
			}
			add("perhaps a field in other letters", cased)
		}
		if schema.MaxProps != nil {
			many := map[string]any{}
			for i := range *schema.MaxProps + 1 {
				many[fmt.Sprint(i)] = "x"
			}
			add("too many entries", many)
		}
	}
	add("perhaps something deep", json.RawMessage(strings.Repeat(`{"a":[`, 300)+strings.Repeat(`]}`, 300)))
	slices.SortFunc(choices, func(a, b choice) int { return strings.Compare(a.name, b.name) }) // else a seed would not say which
	chosen := rapid.SampledFrom(choices).Draw(rt, "misfit")
	return chosen.name, chosen.value
}

// spoilBytes makes the body something that is not JSON, or JSON that nobody writes.
func (c *contract) spoilBytes(rt *rapid.T, in *request) {
	kinds := []struct {
		name  string
		wrong bool
		body  func() []byte
	}{
		{"half a body", true, func() []byte { return in.body[:len(in.body)-1] }},
		{"something behind the body", true, func() []byte { return append(slices.Clone(in.body), " {}"...) }},
		{"text", true, func() []byte { return []byte("message=hola") }},
		{"no value", true, func() []byte { return []byte("NaN") }},
		{"null", true, func() []byte { return []byte("null") }},
		{"a byte order mark", true, func() []byte { return append([]byte("\ufeff"), in.body...) }},
		{"UTF-16", true, func() []byte { return []byte("\xff\xfe{\x00}\x00") }},
		{"invalid UTF-8", true, func() []byte { return withField(in.body, "\"\xff\xc0\xaf\":1") }},
		{"invalid UTF-8 in a value", true, func() []byte {
			at := bytes.LastIndexByte(in.body, '"')
			if at < 0 {
				return []byte("\xff")
			}
			return slices.Concat(in.body[:at], []byte{0xed, 0xa0, 0x80}, in.body[at:])
		}},
		{"100,000 brackets", true, func() []byte { return bytes.Repeat([]byte("["), 100_000) }},
		{"9,000 nested arrays", true, func() []byte { return []byte(strings.Repeat("[", 9000) + strings.Repeat("]", 9000)) }},
		{"a deep field", !in.op.isOpenAI(), func() []byte {
			return withField(in.body, `"x":`+strings.Repeat(`{"a":`, 5000)+"1"+strings.Repeat("}", 5000))
		}},
		{"a field twice", true, func() []byte {
			var fields map[string]json.RawMessage
			if json.Unmarshal(in.body, &fields) != nil || len(fields) == 0 {
				return []byte(`{"x":1,"x":2}`)
			}
			name := slices.Min(slices.Collect(maps.Keys(fields)))
			return withField(in.body, string(encoded(name))+":[1]")
		}},
		{"2 MiB", true, func() []byte { return append(slices.Clone(in.body), bytes.Repeat([]byte(" "), 2<<20)...) }},
		{"a surrogate alone", false, func() []byte { return bytes.Replace(in.body, []byte(`:"`), []byte(`:"\ud800`), 1) }},
		{"nothing", in.op.spec.RequestBody.Value.Required, func() []byte { return nil }},
	}
	kind := rapid.SampledFrom(kinds).Draw(rt, "kind of body")
	in.fault, in.wrong, in.body = kind.name, kind.wrong, kind.body()
}

// withField puts a field in front of an object's others.
func withField(body []byte, field string) []byte {
	rest := bytes.TrimPrefix(body, []byte("{"))
	if string(rest) != "}" {
		field += ","
	}
	return []byte("{" + field + string(rest))
}

func (c *contract) spoilMedia(rt *rapid.T, in *request) {
	kind := rapid.SampledFrom([]string{"", "text/plain", "application/json; charset=utf-16", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json;;", "\xff", "application/xml"}).Draw(rt, "media type")
	in.header["Content-Type"] = []string{kind}
	in.fault, in.wrong = "the media type "+kind, true
	if rapid.IntRange(0, 4).Draw(rt, "encoding") == 0 {
		in.header.Set("Content-Type", "application/json")
		in.header.Set("Content-Encoding", "gzip")
		in.fault = "a coding"
	}
}

func (c *contract) spoilHeaders(rt *rapid.T, in *request) {
	kinds := []struct {
		name, value string
		wrong       bool
	}{
		{"Authorization", "", true}, {"Authorization", "Bearer", true}, {"Authorization", "Bearer ha_live_x", true}, {"Authorization", "Basic " + c.root.key, true},
		{"Authorization", "Bearer " + c.root.key + "\xff", true}, {"Authorization", "Bearer " + strings.Repeat("x", 5000), true}, {"Authorization", "bearer  " + c.root.key, false},
		{"Idempotency-Key", strings.Repeat("k", 256), false}, {"Idempotency-Key", "with space", false}, {"Idempotency-Key", "ñ\xff", false}, {"Idempotency-Key", "", false},
		{"Accept", "*/*;q=0.1, application/problem+json;q=x", false}, {"Accept", "\xff", false}, {"Accept-Language", "es;q=nan, \xff, " + strings.Repeat("x-", 1000), false},
		{"X-Request-Id", "\xff\xfe" + strings.Repeat("y", 1000), false}, {"Traceparent", "00-zz-\xff", false}, {"Traceparent", strings.Repeat("0-", 60), false}, {"User-Agent", "\xc3\x28 🤖", false},
		{"Last-Event-ID", "turn_x:-1", false}, {"Last-Event-ID", "x:99999999999999999999", false}, {"Last-Event-ID", "\xff", false}, {"Last-Event-ID", strings.Repeat("9", 5000), false},
		{"Range", "bytes=0-0", false}, {"If-None-Match", "*", false}, {"Expect", "100-continue", false}, {"X-Forwarded-For", "\xff, 999.1.1.1, [::1", false},
		{"Forwarded", "for=\"_x\";host=evil;proto=\xff", false}, {"X-Forwarded-Host", "evil.example", false}, {"X-Http-Method-Override", "DELETE", false}, {"Cookie", strings.Repeat("a=b; ", 500), false},
		{"Upgrade", "h2c", false}, {"Content-Encoding", "identity", false}, {"Te", "trailers", false},
	}
	kind := rapid.SampledFrom(kinds).Draw(rt, "header")
	in.header[kind.name] = []string{kind.value}
	in.fault, in.wrong = fmt.Sprintf("the header %s: %q", kind.name, cut(kind.value)), kind.wrong && in.op.spec.Extensions["x-nido-scope"] != "none"
}

// spoilPath asks for something that cannot be there.
func (c *contract) spoilPath(rt *rapid.T, in *request) {
	segments := strings.Split(in.op.route, "/")
	for i, segment := range segments {
		if strings.HasPrefix(segment, "{") {
			segments[i] = rapid.SampledFrom([]string{
				"%00", "%ff", "%ED%A0%80", "..", "%2e%2e", "%2e", "a%2Fb", "a;b=c", "%F0%9F%91%8B", strings.Repeat("a", 3000), "-1", "0", "99999999999999999999", "1e3", "*", "%27%20OR%201=1", "agt_%00", "key_%ff",
				"conv%20x", "acc_", "req_", "turn_", "key_", "%C3%B1", "a+b", "%25", "1%0a",
			}).Draw(rt, "segment")
		}
	}
	in.path, in.fault = strings.Join(segments, "/"), "a strange path"
}

// spoilQuery spoils a parameter, adds one, or breaks the query as a whole.
func (c *contract) spoilQuery(rt *rapid.T, in *request) {
	path, query, _ := strings.Cut(in.path, "?")
	var names []string
	for _, parameter := range in.op.parameters() {
		if parameter.Value.In == "query" {
			names = append(names, parameter.Value.Name)
		}
	}
	strange := []string{
		"", "%00", "%ff", "%F0%9F%91%8B", "-1", "0", "101", "1.5", "1e3", "99999999999999999999", "ten", "true", "null", "a%0Ab", "%27%20OR%201=1", "*", "2026-02-30T00:00:00Z", "tomorrow",
		"0000-01-01T00:00:00Z", "9999-12-31T23:59:59Z", "0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-12:00", "2026-03-01T00:00:00", "Mars/Olympus", "Local", "..%2F..%2Fetc%2Fpasswd", "agent,agent", "agent,,day", "%25", "[]", "%7B%7D", strings.Repeat("a", 600),
		url.QueryEscape("\"unbalanced OR (x"), "eyJmIjoiIn0", "bnVsbA", "e30", strings.Repeat("A", 1024), strings.Repeat("A", 2000),
	}
	switch rapid.IntRange(0, 5).Draw(rt, "kind of query") {
	case 0:
		query, in.fault, in.wrong = query+"&colour=red", "a parameter that it does not know", !in.op.isOpenAI() && in.op.spec.Extensions["x-nido-scope"] != "none"
	case 1:
		query, in.fault = query+"&"+rapid.SampledFrom([]string{"a=%zz", "a;b", "%ff=%ff", "=", "&&&", "a", "limit=1&limit=2", "%00=1", strings.Repeat("a=b&", 300)}).Draw(rt, "query"), "a broken query"
	default:
		if len(names) == 0 {
			in.fault = "none after all"
			return
		}
		name := rapid.SampledFrom(names).Draw(rt, "parameter")
		value := rapid.SampledFrom(strange).Draw(rt, "value")
		values, err := url.ParseQuery(query)
		if err != nil {
			rt.Fatalf("the test made the query %s: %v", query, err)
		}
		values.Del(name)
		if name == "cursor" && rapid.Bool().Draw(rt, "forged") {
			place := rapid.SampledFrom([]string{
				`null`, `{}`, `[]`, `1`, `""`, `="\u0000"`, `~"\u0000"`, `="\uffff"`, `=-1`, `~-1`, `=99999999999999999999`, `~99999999999999999999`, `="9999-12-31T23:59:59Z"`, `="0000-01-01T00:00:00Z"`,
				`="0001-01-01T00:00:00+23:59"`, `="1800-01-01T00:00:00Z"`, `=null`, `~null`, `={}`, `=1e3`, `~""`, `=""`, `~9223372036854775807`, `~-9223372036854775808`,
			}).Draw(rt, "place")
			if cursor := c.page(path, values); cursor != "" {
				value = forged(cursor, place)
			}
		}
		query, in.fault = strings.TrimPrefix(values.Encode()+"&"+name+"="+value, "&"), "a strange "+name
	}
	in.path = path + "?" + strings.TrimPrefix(query, "&")
}

// spoilMethod asks a route with a method that it does not have.
func (c *contract) spoilMethod(rt *rapid.T, in *request) {
	in.method = rapid.SampledFrom([]string{"PUT", "TRACE", "OPTIONS", "PROPFIND", "get", "QUERY", "X"}).Draw(rt, "method")
	in.fault, in.wrong = "a method that it does not have", true
}
