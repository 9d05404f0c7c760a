package e2e

// This file is what the fuzzer learns from answers: ids and cursors that there are, for the requests that come.

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// learn keeps what an answer tells of.
func (c *contract) learn(in request, got answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := got.header.Get("X-Request-Id")
	scope := in.op.spec.Extensions["x-nido-scope"]
	if in.header["Authorization"] == nil && scope != "none" && (got.status < 300 || got.status == http.StatusBadRequest && scope != "chat") {
		c.keep("logs", id) // it is known whose request it was
	}
	if in.method == http.MethodDelete && got.status < 300 {
		for kind, ids := range c.things {
			c.things[kind] = slices.DeleteFunc(ids, func(id string) bool { return strings.Contains(in.path, "/"+id) })
		}
	}
	if got.status >= 300 || in.method == http.MethodHead {
		return
	}
	if location := got.header.Get("Location"); location != "" {
		segments := strings.Split(location, "/")
		c.keep(segments[len(segments)-2], segments[len(segments)-1])
	}
	list := listed(in.path)
	if cursor := got.header.Get("X-Next-Cursor"); cursor != "" {
		c.pages[list] = cursor
	}
	if strings.HasPrefix(string(got.body), "retry:") {
		if _, rest, found := strings.Cut(string(got.body), "\nid: "); found {
			turn, _, _ := strings.Cut(rest, ":")
			c.keep("turns", turn)
		}
	}
	var told struct {
		NextCursor                               *string
		Data                                     []struct{ ID string }
		ConversationID, AgentID, MessageID, Slug string
	}
	if json.Unmarshal(got.body, &told) != nil {
		return
	}
	if told.NextCursor != nil {
		c.pages[list] = *told.NextCursor
	}
	last := in.op.route[strings.LastIndexByte(in.op.route, '/')+1:]
	for _, one := range told.Data {
		if one.ID != "" {
			c.keep(last, one.ID)
		}
	}
	c.keep("messages", told.MessageID)
	c.keep("slugs", told.Slug)
	if told.ConversationID != "" {
		c.agents[told.ConversationID] = told.AgentID
		c.keep("conversations", told.ConversationID)
	}
}

// keep remembers an id, the latest few of each kind.
func (c *contract) keep(kind, id string) {
	if id == "" || c.spared[id] || slices.Contains(c.things[kind], id) {
		return
	}
	c.things[kind] = append(c.things[kind], id)
	if extra := len(c.things[kind]) - 40; extra > 0 {
		c.things[kind] = slices.Delete(c.things[kind], 0, extra)
	}
}

// listed is what a list was asked: path and query without what names the page.
func listed(path string) string {
	path, query, _ := strings.Cut(path, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return query
	}
	values.Del("cursor")
	values.Del("limit")
	return path + "?" + values.Encode()
}

// forged is a cursor of a list with another place. A place that begins with = or ~ is put into the first or the last field
// of the one that was there.
func forged(cursor, place string) string {
	whole, err := base64.RawURLEncoding.DecodeString(cursor)
	var parts map[string]any
	if err == nil {
		err = json.Unmarshal(whole, &parts)
	}
	old, isObject := parts["p"].(map[string]any)
	if err != nil || !isObject {
		return cursor + "A"
	}
	names := slices.Sorted(maps.Keys(old))
	switch place[0] {
	case '=':
		old[names[0]] = json.RawMessage(place[1:])
	case '~':
		old[names[len(names)-1]] = json.RawMessage(place[1:])
	default:
		parts["p"] = json.RawMessage(place)
	}
	return base64.RawURLEncoding.EncodeToString(encoded(parts))
}
