package commands_test

// This file stands at the command: the slugs that a name suggests.

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/domain/host"
)

func TestNamesSuggestSlugs(t *testing.T) {
	inputs := metaAt(1).Inputs
	for name, want := range map[string]string{
		"Agente de Ventas":             "agente-de-ventas",
		"ñandú ÉXITO 24/7":             "nandu-exito-24-7",
		"Ñandú":                        "nandu",
		"n\u0303andu\u0301":            "nandu",
		"  --Hola,   mundo!--  ":       "hola-mundo",
		"A":                            "a",
		"ﬁne":                          "fine",
		"Ａｇｅｎｔ １":                      "agent-1",
		"a\x00b\nc":                    "a-b-c",
		"🤖🦜":                           "",
		"🤖 Ana 🦜":                      "ana",
		"客服":                           "",
		"":                             "",
		"---":                          "",
		strings.Repeat("ab", 150):      strings.Repeat("ab", 25),
		strings.Repeat("a ", 150):      strings.Repeat("a-", 24) + "a",
		strings.Repeat("é", 300):       strings.Repeat("e", 50),
		strings.Repeat("a", 49) + " b": strings.Repeat("a", 49),
		strings.Repeat("a", 50) + " b": strings.Repeat("a", 50),
		strings.Repeat("🤖", 300) + "x": "x",
	} {
		slugs := commands.Suggestions(name, inputs)
		if want == "" {
			if len(slugs) != 2 || !regexp.MustCompile(`^agent-[a-z2-7]{8}$`).MatchString(slugs[0]) {
				t.Errorf("%q suggests %q", name, slugs)
			}
		} else if slugs[0] != want || len(slugs) != 3 {
			t.Errorf("%q suggests %q, not first %q", name, slugs, want)
		}
		for i, slug := range slugs {
			if !host.Slug.MatchString(slug) {
				t.Errorf("%q suggests %q (%d characters), which is no slug", name, slug, len(slug))
			}
			if slices.Contains(slugs[:i], slug) || (i > 0 && want != "" && !strings.HasPrefix(slug, want+"-")) {
				t.Errorf("%q suggests %q", name, slugs)
			}
		}
		if !slices.Equal(slugs, commands.Suggestions(name, inputs)) {
			t.Errorf("%q suggests something else to a retry", name)
		}
		if slices.Equal(slugs, commands.Suggestions(name, metaAt(2).Inputs)) {
			t.Errorf("%q leaves no way out once its slugs are taken", name)
		}
	}
}
