package admission

// This file stands beside the door: what those hear who watch a node.

// Observer is told of verdicts. Its methods must not block.
type Observer interface {
	Admitted()
	// Refused: counter is the policy that was full, such as "key" or "agent-day".
	Refused(counter string)
	// Unanswered: the request could not be counted.
	Unanswered()
}

// nobody watches.
type nobody struct{}

func (nobody) Admitted()      {}
func (nobody) Refused(string) {}
func (nobody) Unanswered()    {}

// Waiting counts the requests that stand in line, those under way in a call not included.
func (a *Admission) Waiting() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	waiting := 0
	for _, line := range a.lines {
		waiting += len(line.waiting)
	}
	return waiting
}

// Calls counts the calls of Postgres since the start.
func (a *Admission) Calls() int64 { return a.calls.Load() }
