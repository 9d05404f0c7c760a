package apikey_test

// This file stands at the decision: every command on a key, every refusal, and what holds for whatever is asked.

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nidohq/nido/domain/apikey"
	"github.com/nidohq/nido/domain/domaintest"
)

var (
	now    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	admin  = apikey.Grant{Scopes: []apikey.Scope{apikey.Admin}}
	issued = apikey.Issued{
		Account: "acc_1", Name: "web shop", Environment: "live", Hash: []byte("hash"), Hint: "wxyz", Scopes: []apikey.Scope{apikey.Chat},
	}
)

// with is the issued key, changed.
func with(change func(*apikey.Issued)) apikey.Issued {
	changed := issued
	change(&changed)
	return changed
}

func TestDecisions(t *testing.T) {
	tell := domaintest.About(apikey.Aggregate)
	many := func(text string, count int) []string { return slices.Repeat([]string{text}, count) }
	entries := map[string]string{}
	for i := range apikey.MaxMetadata + 1 {
		entries[fmt.Sprint(i)] = ""
	}
	full := with(func(k *apikey.Issued) {
		k.Name, k.Scopes = strings.Repeat("ñ", apikey.MaxNameLength), apikey.Scopes
		k.AgentIDs, k.IPAllow = many("agt_1", apikey.MaxAgentIDs), many("2001:db8::/32", apikey.MaxIPAllow)
		k.ExpiresAt, k.Metadata = now.Add(1), map[string]string{"team": "sur"}
	})
	shop, team, none := "other shop", map[string]string{"team": "norte"}, map[string]string(nil)
	issue := func(k apikey.Issued) apikey.Issue { return apikey.Issue{Issued: k, Issuer: admin, Now: now} }
	stories := domaintest.Stories{
		"a key is issued":                  tell.Given().When(issue(issued)).Then(issued),
		"a key is issued up to its bounds": tell.Given().When(issue(full)).Then(full),
		"a key is issued once":             tell.Given(issued).When(issue(issued)).ThenNothing(),
		"a revoked key is not issued anew": tell.Given(issued, apikey.Revoked{}).When(issue(issued)).ThenNothing(),

		"a key is revoked":                         tell.Given(issued).When(apikey.Revoke{Account: "acc_1", Reason: "leaked"}).Then(apikey.Revoked{Reason: "leaked"}),
		"a key is revoked once":                    tell.Given(issued, apikey.Revoked{Reason: "leaked"}).When(apikey.Revoke{Account: "acc_1", Reason: "rotated"}).ThenNothing(),
		"another account's key is not revoked":     tell.Given(issued).When(apikey.Revoke{Account: "acc_2"}).ThenRefused("key_not_found", ""),
		"another account's revoked key is unknown": tell.Given(issued, apikey.Revoked{}).When(apikey.Revoke{Account: "acc_2"}).ThenRefused("key_not_found", ""),
		"a key that does not exist is not revoked": tell.Given().When(apikey.Revoke{}).ThenRefused("key_not_found", ""),

		"a key is bound to agents that there are": tell.Given().
			When(apikey.Issue{Issued: full, Issuer: admin, Now: now, Unknown: "agt_1"}).ThenRefused("invalid_request", "agentIds"),

		"a key gets another name": tell.Given(full).When(apikey.Describe{Account: "acc_1", Name: &shop}).
			Then(apikey.Described{Name: shop, Metadata: map[string]string{"team": "sur"}}),
		"a key gets other metadata": tell.Given(full).When(apikey.Describe{Account: "acc_1", Metadata: &team}).
			Then(apikey.Described{Name: full.Name, Metadata: team}),
		"a key loses its metadata": tell.Given(full).When(apikey.Describe{Account: "acc_1", Metadata: &none}).
			Then(apikey.Described{Name: full.Name, Metadata: none}),
		"a key that is called so already": tell.Given(full, apikey.Described{Name: shop}).When(apikey.Describe{Account: "acc_1", Name: &shop, Metadata: &none}).ThenNothing(),
		"a key keeps some name":           tell.Given(full).When(apikey.Describe{Account: "acc_1", Name: new(string)}).ThenRefused("invalid_request", "name"),
		"metadata keep their bounds":      tell.Given(full).When(apikey.Describe{Account: "acc_1", Metadata: &entries}).ThenRefused("invalid_request", "metadata"),
		"another account's key keeps its name": tell.Given(full).When(apikey.Describe{Account: "acc_2", Name: &shop}).
			ThenRefused("key_not_found", ""),
		"a key that does not exist has no name": tell.Given().When(apikey.Describe{Name: &shop}).ThenRefused("key_not_found", ""),
	}
	for sentence, test := range map[string]struct {
		field string
		spoil func(*apikey.Issued)
	}{
		"a key needs a name":                        {"name", func(k *apikey.Issued) { k.Name = " " }},
		"a name has an end":                         {"name", func(k *apikey.Issued) { k.Name = strings.Repeat("ñ", apikey.MaxNameLength+1) }},
		"a key needs a scope":                       {"scopes", func(k *apikey.Issued) { k.Scopes = nil }},
		"a scope must exist":                        {"scopes", func(k *apikey.Issued) { k.Scopes = []apikey.Scope{apikey.Chat, "coffee"} }},
		"a key is bound to so many agents only":     {"agentIds", func(k *apikey.Issued) { k.AgentIDs = many("agt_1", apikey.MaxAgentIDs+1) }},
		"a key comes from so many networks only":    {"ipAllow", func(k *apikey.Issued) { k.IPAllow = many("10.0.0.0/8", apikey.MaxIPAllow+1) }},
		"a network is a prefix, not an address":     {"ipAllow", func(k *apikey.Issued) { k.IPAllow = []string{"10.0.0.0/8", "10.0.0.1"} }},
		"a network ends where its prefix does":      {"ipAllow", func(k *apikey.Issued) { k.IPAllow = []string{"10.0.0.0/8", "203.0.113.7/24"} }},
		"so does one of IPv6":                       {"ipAllow", func(k *apikey.Issued) { k.IPAllow = []string{"2001:db8::1/64"} }},
		"a network is not IPv4 in IPv6":             {"ipAllow", func(k *apikey.Issued) { k.IPAllow = []string{"::ffff:10.0.0.0/104"} }},
		"metadata have so many entries only":        {"metadata", func(k *apikey.Issued) { k.Metadata = entries }},
		"a key does not expire before it is issued": {"expiresAt", func(k *apikey.Issued) { k.ExpiresAt = now.Add(-time.Hour) }},
		"a key does not expire as it is issued":     {"expiresAt", func(k *apikey.Issued) { k.ExpiresAt = now }},
	} {
		stories[sentence] = tell.Given().When(issue(with(test.spoil))).ThenRefused("invalid_request", test.field)
	}
	stories.Run(t)
}

func TestNobodyHandsOutMoreThanTheyHave(t *testing.T) {
	tell := domaintest.About(apikey.Aggregate)
	grant := func(agents []string, scopes ...apikey.Scope) apikey.Grant {
		return apikey.Grant{Scopes: scopes, AgentIDs: agents}
	}
	one, two := []string{"agt_1"}, []string{"agt_1", "agt_2"}
	for sentence, test := range map[string]struct {
		has, wants apikey.Grant
		field      string // in which it goes too far
	}{
		"the same":                               {grant(nil, apikey.KeysWrite, apikey.Chat), grant(nil, apikey.Chat, apikey.KeysWrite), ""},
		"less":                                   {grant(nil, apikey.KeysWrite, apikey.Chat), grant(one, apikey.Chat), ""},
		"another scope":                          {grant(nil, apikey.KeysWrite, apikey.Chat), grant(nil, apikey.LogsRead), "scopes"},
		"one scope too many":                     {grant(nil, apikey.KeysWrite, apikey.Chat), grant(nil, apikey.Chat, apikey.AgentsWrite), "scopes"},
		"writing is not reading":                 {grant(nil, apikey.KeysWrite), grant(nil, apikey.KeysRead), "scopes"},
		"admin from all other scopes":            {grant(nil, apikey.AccountScopes()...), grant(nil, apikey.Admin), "scopes"},
		"everything from admin":                  {grant(nil, apikey.Admin), grant(nil, apikey.Scopes...), ""},
		"all agents from some":                   {grant(two, apikey.Chat), grant(nil, apikey.Chat), "agentIds"},
		"another agent":                          {grant(one, apikey.Chat), grant(two, apikey.Chat), "agentIds"},
		"one of two agents":                      {grant(two, apikey.Chat), grant(one, apikey.Chat), ""},
		"another agent from a bound admin":       {grant(one, apikey.Admin), grant(two, apikey.Chat), "agentIds"},
		"a scope and an agent from nothing":      {grant(nil), grant(one, apikey.Chat), "scopes"},
		"all agents and admin from a bound chat": {grant(one, apikey.Chat), grant(nil, apikey.Admin), "scopes"},
	} {
		wanted := with(func(k *apikey.Issued) { k.Scopes, k.AgentIDs = test.wants.Scopes, test.wants.AgentIDs })
		asked := tell.Given().When(apikey.Issue{Issued: wanted, Issuer: test.has, Now: now})
		if test.field == "" {
			t.Run(sentence+" is handed out", asked.Then(wanted))
		} else {
			t.Run(sentence+" is not handed out", asked.ThenRefused("grant_exceeded", test.field))
		}
	}
}

func TestNobodyHandsOutMoreAddressesOrTimeThanTheyHave(t *testing.T) {
	tell := domaintest.About(apikey.Aggregate)
	from := func(networks ...string) apikey.Grant {
		return apikey.Grant{Scopes: []apikey.Scope{apikey.Admin}, IPAllow: networks}
	}
	until := func(at time.Time) apikey.Grant {
		return apikey.Grant{Scopes: []apikey.Scope{apikey.Admin}, Expires: at}
	}
	soon, late := now.Add(time.Hour), now.Add(2*time.Hour)
	for sentence, test := range map[string]struct {
		has, wants apikey.Grant
		field      string // in which it goes too far
	}{
		"some addresses from all":         {from(), from("10.0.0.0/8"), ""},
		"all addresses from some":         {from("10.0.0.0/8"), from(), "ipAllow"},
		"the same network":                {from("10.0.0.0/8", "::/0"), from("10.0.0.0/8"), ""},
		"a network within":                {from("192.0.2.0/24", "10.0.0.0/8"), from("10.7.0.0/16", "192.0.2.1/32"), ""},
		"a network around":                {from("10.7.0.0/16"), from("10.0.0.0/8"), "ipAllow"},
		"a network beside":                {from("10.7.0.0/16"), from("10.7.0.0/16", "10.8.0.0/16"), "ipAllow"},
		"a network that begins elsewhere": {from("10.7.9.9/16"), from("10.7.1.0/24"), ""},
		"IPv6 from IPv4":                  {from("0.0.0.0/0"), from("::/0"), "ipAllow"},
		"IPv4 from IPv6":                  {from("::/0"), from("10.0.0.0/8"), "ipAllow"},
		"an end where there is none":      {until(time.Time{}), until(soon), ""},
		"an earlier end":                  {until(late), until(soon), ""},
		"the same end":                    {until(soon), until(soon), ""},
		"a later end":                     {until(soon), until(late), "expiresAt"},
		"no end where there is one":       {until(soon), until(time.Time{}), "expiresAt"},
	} {
		wanted := with(func(k *apikey.Issued) { k.IPAllow, k.ExpiresAt = test.wants.IPAllow, test.wants.Expires })
		issue := tell.Given().When(apikey.Issue{Issued: wanted, Issuer: test.has, Now: now})
		rotate := tell.Given(wanted).When(apikey.Rotate{Account: "acc_1", Hash: []byte("new"), Issuer: test.has, Now: now})
		if test.field == "" {
			t.Run(sentence+" is handed out", issue.Then(wanted))
			t.Run(sentence+" is shown another secret of", rotate.Then(apikey.Rotated{Hash: []byte("new")}))
		} else {
			t.Run(sentence+" is not handed out", issue.ThenRefused("grant_exceeded", test.field))
			t.Run(sentence+" is not shown another secret of", rotate.ThenRefused("grant_exceeded", test.field))
		}
	}
}

func TestRotation(t *testing.T) {
	tell := domaintest.About(apikey.Aggregate)
	rotate := func(hash string, grace time.Duration, change ...func(*apikey.Rotate)) apikey.Rotate {
		command := apikey.Rotate{Account: "acc_1", Hash: []byte(hash), Hint: "last", Grace: grace, Issuer: admin, By: "k1", Now: now}
		for _, c := range change {
			c(&command)
		}
		return command
	}
	rotated := func(hash string, grace time.Duration) apikey.Rotated {
		event := apikey.Rotated{Hash: []byte(hash), Hint: "last", RotatedBy: "k1"}
		if grace > 0 {
			event.GraceUntil = now.Add(grace)
		}
		return event
	}
	by := func(scopes []apikey.Scope, agents []string) func(*apikey.Rotate) {
		return func(c *apikey.Rotate) { c.Issuer = apikey.Grant{Scopes: scopes, AgentIDs: agents} }
	}
	many := []apikey.Event{issued}
	for i := range apikey.MaxEarlierSecrets {
		many = append(many, rotated(fmt.Sprint("secret ", i), time.Hour))
	}
	domaintest.Stories{
		"a key gets another secret, the one before works for a while": tell.Given(issued).When(rotate("new", time.Hour)).Then(rotated("new", time.Hour)),
		"without a grace the secret before stops at once":             tell.Given(issued).When(rotate("new", 0)).Then(rotated("new", 0)),
		"the longest grace is a month":                                tell.Given(issued).When(rotate("new", apikey.MaxGrace)).Then(rotated("new", apikey.MaxGrace)),
		"a longer grace is refused":                                   tell.Given(issued).When(rotate("new", apikey.MaxGrace+1)).ThenRefused("invalid_request", "graceSeconds"),
		"a grace has no end before its beginning":                     tell.Given(issued).When(rotate("new", -1)).ThenRefused("invalid_request", "graceSeconds"),
		"the same secret again is nothing new":                        tell.Given(issued, rotated("new", time.Hour)).When(rotate("new", time.Hour)).ThenNothing(),
		"a key that does not exist is not rotated":                    tell.Given().When(rotate("new", 0)).ThenRefused("key_not_found", ""),
		"another account's key is not rotated":                        tell.Given(issued).When(rotate("new", 0, func(c *apikey.Rotate) { c.Account = "acc_2" })).ThenRefused("key_not_found", ""),
		"a revoked key is not rotated":                                tell.Given(issued, apikey.Revoked{}).When(rotate("new", 0)).ThenRefused("key_revoked", ""),
		"a rotated key is revoked with all its secrets":               tell.Given(issued, rotated("new", time.Hour)).When(apikey.Revoke{Account: "acc_1"}).Then(apikey.Revoked{}),
		"a key that may do less is not shown the new secret":          tell.Given(issued).When(rotate("new", 0, by([]apikey.Scope{apikey.KeysWrite}, nil))).ThenRefused("grant_exceeded", "scopes"),
		"nor one that is bound to some agents":                        tell.Given(issued).When(rotate("new", 0, by([]apikey.Scope{apikey.Chat}, []string{"agt_1"}))).ThenRefused("grant_exceeded", "agentIds"),
		"one that may do the same is":                                 tell.Given(issued).When(rotate("new", 0, by([]apikey.Scope{apikey.Chat}, nil))).Then(rotated("new", 0)),
		"so many secrets are in their grace only":                     tell.Given(many...).When(rotate("new", time.Hour)).ThenRefused("invalid_request", "graceSeconds"),
		"rotating without a grace ends all of them":                   tell.Given(many...).When(rotate("new", 0)).Then(rotated("new", 0)),
		"and then there is room again":                                tell.Given(append(slices.Clone(many), rotated("new", 0))...).When(rotate("newer", time.Hour)).Then(rotated("newer", time.Hour)),
		"so there is when their graces are over": tell.Given(many...).
			When(rotate("new", time.Hour, func(c *apikey.Rotate) { c.Now = now.Add(time.Hour) })).
			Then(apikey.Rotated{Hash: []byte("new"), Hint: "last", GraceUntil: now.Add(2 * time.Hour), RotatedBy: "k1"}),
	}.Run(t)
}

func TestGrants(t *testing.T) {
	chat := apikey.Grant{Scopes: []apikey.Scope{apikey.Chat}, AgentIDs: []string{"agt_1"}}
	if !chat.Has(apikey.Chat) || chat.Has(apikey.AgentsRead) || chat.Has(apikey.Admin) || !chat.Reaches("agt_1") || chat.Reaches("agt_2") {
		t.Error("a bound chat key is for chatting with its agent")
	}
	for _, scope := range apikey.Scopes {
		if !admin.Has(scope) {
			t.Errorf("admin lacks %s", scope)
		}
		if got, want := slices.Contains(apikey.AccountScopes(), scope), scope != apikey.Admin; got != want {
			t.Errorf("a new account's first key has %s: %v", scope, got)
		}
	}
	if !admin.Reaches("agt_7") || (apikey.Grant{}).Has(apikey.Chat) {
		t.Error("no agents are all agents, no scopes are none")
	}
}

func grants(t *rapid.T) apikey.Grant {
	return apikey.Grant{
		Scopes:   rapid.SliceOfN(rapid.SampledFrom([]apikey.Scope{apikey.Chat, apikey.AgentsRead, apikey.Admin, "coffee"}), 0, 3).Draw(t, "scopes"),
		AgentIDs: rapid.SliceOfN(rapid.SampledFrom([]string{"agt_1", "agt_2"}), 0, 2).Draw(t, "agents"),
		IPAllow:  rapid.SliceOfN(rapid.SampledFrom([]string{"10.0.0.0/8", "10.1.0.0/16", "::/0", "10.0.0.1", ""}), 0, 2).Draw(t, "networks"),
		Expires:  rapid.SampledFrom([]time.Time{{}, now, now.Add(time.Hour), now.Add(2 * time.Hour)}).Draw(t, "expiry"),
	}
}

func commands() *rapid.Generator[apikey.Command] {
	return rapid.Custom(func(t *rapid.T) apikey.Command {
		account := rapid.SampledFrom([]string{"acc_1", "acc_2"}).Draw(t, "account")
		switch rapid.IntRange(0, 3).Draw(t, "command") {
		case 3:
			name, metadata := rapid.SampledFrom([]string{"shop", "ñ", ""}).Draw(t, "name"), rapid.MapOfN(rapid.String(), rapid.String(), 0, 2).Draw(t, "metadata")
			return apikey.Describe{Account: account, Name: &name, Metadata: &metadata}
		case 0:
			return apikey.Revoke{Account: account, Reason: rapid.String().Draw(t, "reason")}
		case 1:
			return apikey.Rotate{
				Account: account, Hash: rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "hash"), Issuer: grants(t),
				Grace: rapid.SampledFrom([]time.Duration{-1, 0, time.Hour, 2 * time.Hour}).Draw(t, "grace"),
				Now:   rapid.SampledFrom([]time.Time{now, now.Add(90 * time.Minute)}).Draw(t, "now"),
			}
		}
		wanted := grants(t)
		return apikey.Issue{Issuer: grants(t), Now: now, Issued: apikey.Issued{
			Account: account, Name: rapid.SampledFrom([]string{"shop", "ñ", ""}).Draw(t, "name"), Environment: "test",
			Hash: rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "hash"), Scopes: wanted.Scopes, AgentIDs: wanted.AgentIDs,
			ExpiresAt: wanted.Expires, IPAllow: wanted.IPAllow,
			Metadata: rapid.MapOfN(rapid.String(), rapid.String(), 0, 2).Draw(t, "metadata"),
		}}
	})
}

func TestWhateverIsAskedOfAKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		domaintest.Play(t, apikey.Aggregate, rapid.SliceOf(commands()).Draw(t, "commands"), func(step domaintest.Step[apikey.Command, apikey.Event, apikey.State]) {
			switch {
			case step.Before.Account != "" && step.After.Account != step.Before.Account:
				t.Fatalf("%#v moved the key to another account", step.Command)
			case step.Before.Revoked && len(step.Events) == 1 && reflect.TypeOf(step.Events[0]) == reflect.TypeFor[apikey.Described]():
			case step.Before.Revoked && !reflect.DeepEqual(step.After, step.Before):
				t.Fatalf("%#v changed a revoked key", step.Command)
			}
			for _, event := range step.Events {
				var issuer apikey.Grant
				var key apikey.Grant
				switch e := event.(type) {
				case apikey.Issued:
					issuer, key = step.Command.(apikey.Issue).Issuer, apikey.Grant{Scopes: e.Scopes, AgentIDs: e.AgentIDs, IPAllow: e.IPAllow, Expires: e.ExpiresAt}
				case apikey.Rotated:
					issuer, key = step.Command.(apikey.Rotate).Issuer, apikey.Grant{Scopes: step.After.Scopes, AgentIDs: step.After.AgentIDs, IPAllow: step.After.IPAllow, Expires: step.After.Expires}
					if len(step.After.Graces) > apikey.MaxEarlierSecrets || !slices.IsSortedFunc(step.After.Graces, time.Time.Compare) {
						t.Fatalf("graces %v", step.After.Graces)
					}
				}
				for _, scope := range key.Scopes {
					if !issuer.Has(scope) {
						t.Fatalf("%v handed out %s", issuer, scope)
					}
				}
				if expires := issuer.Expires; len(step.Events) > 0 && key.Scopes != nil && !expires.IsZero() && (key.Expires.IsZero() || key.Expires.After(expires)) {
					t.Fatalf("%v handed out until %v", issuer, key.Expires)
				}
				for _, address := range []string{"10.0.0.1", "10.1.0.1", "11.0.0.1", "2001:db8::1"} {
					if key.Scopes != nil && comesFrom(key.IPAllow, address) && !comesFrom(issuer.IPAllow, address) {
						t.Fatalf("%v handed out %s to %v", issuer, address, key)
					}
				}
				for _, id := range key.AgentIDs {
					if !issuer.Reaches(id) {
						t.Fatalf("%v handed out agent %s", issuer, id)
					}
				}
			}
		})
	})
}

// comesFrom reports whether networks let an address in; none let every address in.
func comesFrom(networks []string, address string) bool {
	return len(networks) == 0 || slices.ContainsFunc(networks, func(text string) bool {
		network, err := netip.ParsePrefix(text)
		return err == nil && network.Contains(netip.MustParseAddr(address))
	})
}

func TestStoredEvents(t *testing.T) {
	domaintest.CheckGolden(t, apikey.Aggregate,
		domaintest.Golden[apikey.Event]{Type: "key.issued", Schema: 1, Event: apikey.Issued{
			Account: "acc_1", Name: "web shop", Environment: "live", Hash: []byte("32 bytes of SHA-256 stand here.."), Hint: "wxyz",
			Scopes: []apikey.Scope{apikey.Chat, apikey.AgentsRead}, AgentIDs: []string{"agt_1", "agt_2"}, ExpiresAt: now,
			IPAllow: []string{"203.0.113.0/24", "2001:db8::/32"}, Metadata: map[string]string{"team": "sur"}, IssuedBy: "0Az9publicID",
		}},
		domaintest.Golden[apikey.Event]{Type: "key.rotated", Schema: 1, Event: apikey.Rotated{
			Hash: []byte("32 bytes of SHA-256 stand here.."), Hint: "wxyz", GraceUntil: now, RotatedBy: "0Az9publicID",
		}},
		domaintest.Golden[apikey.Event]{Type: "key.described", Schema: 1, Event: apikey.Described{Name: "other shop", Metadata: map[string]string{"team": "sur"}}},
		domaintest.Golden[apikey.Event]{Type: "key.revoked", Schema: 1, Event: apikey.Revoked{Reason: "leaked"}},
	)
}
