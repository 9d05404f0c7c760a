package requestlog

// This file stands beside the queue: what it could not take is counted, account by account.

import (
	"crypto/rand"
	"encoding/base32"
	"slices"
	"strings"

	"github.com/nidohq/nido/projections"
)

// maxLossAccounts bounds how many accounts are told apart between two bundles; the rest are counted together.
const maxLossAccounts = 1000

// losses counts entries between two bundles.
type losses struct {
	node string
	gaps map[lossKey]*projections.Gap
}

type lossKey struct{ account, why string }

func (l *losses) add(r projections.Request, why string) {
	key := lossKey{r.Account, why}
	if l.gaps[key] == nil && len(l.gaps) >= maxLossAccounts {
		key.account = ""
	}
	g := l.gaps[key]
	if g == nil {
		g = &projections.Gap{ID: gapID(), Account: key.account, Node: l.node, From: r.At, To: r.At, Why: why}
		if l.gaps == nil {
			l.gaps = map[lossKey]*projections.Gap{}
		}
		l.gaps[key] = g
	}
	g.Lost++
	if r.At.Before(g.From) {
		g.From = r.At
	}
	if r.At.After(g.To) {
		g.To = r.At
	}
}

// take returns the gaps so far, and begins anew.
func (l *losses) take() []projections.Gap {
	gaps := make([]projections.Gap, 0, len(l.gaps))
	for _, g := range l.gaps {
		gaps = append(gaps, *g)
	}
	l.gaps = nil
	slices.SortFunc(gaps, func(a, b projections.Gap) int { return strings.Compare(a.ID, b.ID) })
	return gaps
}

// gapID names a loss, so that a bundle that is published twice writes it once.
func gapID() string {
	random := make([]byte, 16)
	rand.Read(random) // never fails (crypto/rand)
	return "gap_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(random))
}
