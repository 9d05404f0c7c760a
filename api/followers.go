package api

// This file stands where streams are told: how many follow one turn through this node at a time. Each of them holds a
// connection and, where another node runs the turn, asks the stores ten times a second.

import "sync"

// maxFollowers bounds them. A turn has one reader, who may have lost a connection or two without the node having noticed,
// or may repeat its request as often as it likes to have an answer.
const maxFollowers = 100

// followers counts them by turn.
type followers struct {
	mu    sync.Mutex
	count map[string]int
}

// enter lets one more in. leave must be called once.
func (f *followers) enter(turn string) (leave func(), err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.count[turn] >= maxFollowers {
		return nil, problem("too_many_followers")
	}
	if f.count == nil {
		f.count = map[string]int{}
	}
	f.count[turn]++
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.count[turn]--; f.count[turn] == 0 {
			delete(f.count, turn)
		}
	}, nil
}
