package commands_test

// This file checks the whole line, command to read models, in a simulation: every step of every party happens when a
// seeded random number says so, and each rule of the design can be switched off to see that it is needed.

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/nidohq/nido/domain"
)

// rules are the ones that the design rests on; the zero value has all of them in force.
type rules struct {
	lastWins         bool // a commit is accepted whatever its base
	ignoreCommandIDs bool // a retry does not look whether its command has been committed
	twoReads         bool // version and command id are read one after the other, not in one snapshot
	noFence          bool // the projector's transaction does not compare the checkpoint
	impatient        bool // ClickHouse reads the rejections before the Postgres fold has passed its batch
	freshCommandIDs  bool // a retry is sent under another command id
}

// tally is an aggregate whose decider would gladly say the same thing twice, so that only the log's rules prevent it.
type tally struct{ Names []string }
type add struct{ Name string }
type added struct{ Name string }

var tallies = domain.Aggregate[add, added, tally]{
	Kind: "tally",
	Decider: domain.Decider[add, added, tally]{
		Decide: func(c add, _ tally) ([]added, error) { return []added{added(c), {Name: c.Name + "'"}}, nil },
		Evolve: func(s tally, e added) tally { return tally{Names: append(slices.Clone(s.Names), e.Name)} },
	},
	Codec: domain.NewCodec(domain.List[added, added]("tally.added")),
}

const simulatedPartitions = 2

// simulate runs one seed and says what went wrong, or "".
func simulate(seed uint64, rules rules) string {
	const writers, each, patience = 5, 6, 200_000
	w := &world{
		rules: rules, dice: rand.New(rand.NewPCG(seed, 7)), log: make([][]domain.Recorded, simulatedPartitions),
		fold: newFold(), rows: map[string]domain.Commit{}, seen: make([]int64, simulatedPartitions),
	}
	return w.run(writers, each, patience)
}

type stopped struct{}

func TestNoCommandIsLostOrDoubledAndNoTwoConsumersDisagree(t *testing.T) {
	const seeds = 300
	for seed := range uint64(seeds) {
		if fault := simulate(seed, rules{}); fault != "" {
			t.Fatalf("seed %d: %s", seed, fault)
		}
	}
	t.Logf("seeds 0 to %d, %d commands each", seeds-1, 30)
}

func TestEveryRuleIsNeeded(t *testing.T) {
	for name, off := range map[string]rules{
		"a commit is accepted on its base only":          {lastWins: true},
		"a retry looks for its command id":               {ignoreCommandIDs: true},
		"version and command id are read at one instant": {twoReads: true},
		"the projector's transaction is fenced":          {noFence: true},
		"ClickHouse waits for the Postgres fold":         {impatient: true},
		"a retry keeps its command id":                   {freshCommandIDs: true},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(2000) {
				if fault := simulate(seed, off); fault != "" {
					t.Logf("seed %d: %s", seed, fault)
					return
				}
			}
			t.Fatal("no seed found the bug that this rule prevents")
		})
	}
}
