package e2e

// This file says what a stream may answer: as if every command and every look at it happened at one instant between its
// call and its answer, whatever is killed meanwhile.

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// asked is what a client wanted of a stream.
type asked struct {
	stream string
	what   string // create, rename, pause, resume, get; issue, revoke, use; claim
	name   string // what it renames to
	// version is the one that a rename turned out to have made, by the agent's history at the end.
	version int
}

// told is what the client heard.
type told struct {
	unknown bool // nothing, or that nobody knows: it may have happened, or happen at any time from the call on
	yes     bool // of use and claim
	// stands is what a look sees. What a command on an agent answers is a look of its own, behind the command: others may
	// come in between.
	stands standing
}

// standing is a stream as a client sees it. The zero value is the empty stream.
type standing struct {
	version int // of an agent's settings; 1 for keys and slugs that are there
	name    string
	over    bool // paused, or revoked
}

// streams is the sequential specification.
func streams() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
			places := map[string]int{}
			for _, operation := range history {
				stream := operation.Input.(asked).stream
				place, seen := places[stream]
				if !seen {
					place = len(parts)
					places[stream], parts = place, append(parts, nil)
				}
				parts[place] = append(parts[place], operation)
			}
			return parts
		},
		Init: func() any { return standing{} },
		Step: func(state, input, output any) (bool, any) {
			return step(state.(standing), input.(asked), output.(told))
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v → %+v", input, output) },
	}
}

// step says whether a stream that stands so may answer so, and how it stands then.
func step(now standing, in asked, out told) (bool, standing) {
	next := now
	switch in.what {
	case "get":
		return out.stands == now, now
	case "use":
		return out.yes == (now.version > 0 && !now.over), now
	case "claim": // the first gets the slug, all others hear that it is taken
		next.version = 1
		return out.unknown || out.yes == (now.version == 0), next
	case "create", "issue":
		next = standing{version: 1, name: in.name}
		return now.version == 0, next
	case "rename":
		next.version, next.name = now.version+1, in.name
		return next.version == in.version, next
	case "pause", "revoke":
		next.over = true
	case "resume":
		next.over = false
	}
	return true, next
}

// never is when a call returns whose outcome nobody knows.
const never = math.MaxInt64

// checkTimeout bounds the search for an order. It takes milliseconds where there is one.
const linearTimeout = 30 * time.Second

func TestTheCheckerFindsEachKindOfBrokenHistory(t *testing.T) {
	t.Parallel()
	v1, v2 := standing{version: 1, name: "a"}, standing{version: 2, name: "b"}
	call := func(from, to int64, in asked, out told) porcupine.Operation {
		return porcupine.Operation{Input: in, Call: from, Output: out, Return: to}
	}
	create := call(0, 1, asked{what: "create", name: "a"}, told{})
	rename := call(2, 4, asked{what: "rename", name: "b", version: 2}, told{})
	next := func(from, to int64, version int) porcupine.Operation {
		return call(from, to, asked{what: "rename", name: "c", version: version}, told{})
	}
	pause := call(2, 3, asked{what: "pause"}, told{})
	lost := call(2, never, asked{what: "rename", name: "b", version: 2}, told{unknown: true})
	get := func(from, to int64, stands standing) porcupine.Operation {
		return call(from, to, asked{what: "get"}, told{stands: stands})
	}
	issue := call(0, 1, asked{what: "issue"}, told{})
	revoke := call(2, 4, asked{what: "revoke"}, told{})
	use := func(from, to int64, yes bool) porcupine.Operation {
		return call(from, to, asked{what: "use"}, told{yes: yes})
	}
	claim := func(from, to int64, yes bool) porcupine.Operation {
		return call(from, to, asked{what: "claim"}, told{yes: yes})
	}
	for sentence, test := range map[string]struct {
		history []porcupine.Operation
		sound   bool
	}{
		"a look during a rename sees either":                   {[]porcupine.Operation{create, rename, get(2, 3, v2), get(3, 3, v2)}, true},
		"nor goes back":                                        {[]porcupine.Operation{create, rename, get(2, 3, v2), get(4, 5, v1)}, false},
		"a look behind a rename's answer sees it":              {[]porcupine.Operation{create, rename, get(5, 6, v1)}, false},
		"two renames make two versions":                        {[]porcupine.Operation{create, rename, next(3, 6, 3), get(7, 8, standing{version: 3, name: "c"})}, true},
		"not the same":                                         {[]porcupine.Operation{create, rename, next(3, 6, 2)}, false},
		"a later rename does not make an earlier version":      {[]porcupine.Operation{create, call(2, 4, asked{what: "rename", name: "b", version: 3}, told{}), next(5, 6, 2)}, false},
		"nor is one applied twice":                             {[]porcupine.Operation{create, rename, get(5, 6, standing{version: 3, name: "b"})}, false},
		"what has no answer may happen later":                  {[]porcupine.Operation{create, lost, get(5, 6, v1), get(7, 8, v2)}, true},
		"and then stays":                                       {[]porcupine.Operation{create, lost, get(5, 6, v2), get(7, 8, v1)}, false},
		"and others build on it":                               {[]porcupine.Operation{create, lost, next(5, 6, 3)}, true},
		"a revoked key opens nothing":                          {[]porcupine.Operation{issue, revoke, use(5, 6, true)}, false},
		"but may until the revocation answers":                 {[]porcupine.Operation{issue, revoke, use(3, 4, true), use(5, 6, false)}, true},
		"not on one node when another has refused it":          {[]porcupine.Operation{issue, call(2, never, asked{what: "revoke"}, told{unknown: true}), use(3, 4, false), use(5, 6, true)}, false},
		"one of two gets a slug":                               {[]porcupine.Operation{claim(0, 3, true), claim(0, 4, false)}, true},
		"not both":                                             {[]porcupine.Operation{claim(0, 3, true), claim(0, 4, true)}, false},
		"and not neither":                                      {[]porcupine.Operation{claim(0, 3, false), claim(0, 4, false)}, false},
		"but for one who died":                                 {[]porcupine.Operation{claim(0, never, false), call(0, never, asked{what: "claim"}, told{unknown: true}), claim(0, 4, false)}, true},
		"a pause that was acknowledged is there":               {[]porcupine.Operation{create, pause, get(4, 5, v1)}, false},
		"a rename keeps the pause":                             {[]porcupine.Operation{create, pause, call(4, 5, asked{what: "rename", name: "b", version: 2}, told{}), get(6, 7, v2)}, false},
		"unless it was resumed by one whose answer never came": {[]porcupine.Operation{create, pause, call(3, never, asked{what: "resume"}, told{unknown: true}), get(6, 7, v1)}, true},
	} {
		if got := porcupine.CheckOperations(streams(), test.history); got != test.sound {
			t.Errorf("%s: the checker says %v", sentence, got)
		}
	}
}
