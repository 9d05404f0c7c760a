package account

// This file stands at the decision: when an account comes to what it may have in a day, and that this is said once.

import "slices"

// Thresholds are the shares of a day's limit, in percent, at which the log says that they were reached.
var Thresholds = [...]int{80, 100}

// Reached is what has been said on the newest such day.
type Reached struct {
	Day    string                 `json:"day,omitempty"` // "2026-03-14", in UTC
	Limits [len(Thresholds)]int64 `json:"limits"`        // of each threshold: the largest limit at which it was reached
}

// ReachLimit says how many requests of the account have come in on a day, and how many might.
type ReachLimit struct {
	Day   string // "2026-03-14", in UTC
	Limit int64
	Used  int64
}

// LimitReached is told once per account, day and threshold, and once more after the limit was raised and reached again.
type LimitReached struct {
	Day     string `json:"day"`     // "2026-03-14", in UTC
	Percent int    `json:"percent"` // 80 or 100
	Limit   int64  `json:"limit"`   // requests of the account on one day
	Used    int64  `json:"used"`    // when it was noticed
}

// News lists the thresholds that were reached and have not been told.
func (r Reached) News(c ReachLimit) []LimitReached {
	if c.Limit <= 0 || c.Day < r.Day {
		return nil
	}
	var news []LimitReached
	for i, percent := range Thresholds {
		told := c.Day == r.Day && c.Limit <= r.Limits[i]
		if !told && float64(c.Used) >= float64(c.Limit)*float64(percent)/100 {
			news = append(news, LimitReached{Day: c.Day, Percent: percent, Limit: c.Limit, Used: c.Used})
		}
	}
	return news
}

func (c ReachLimit) decide(s State) ([]Event, error) {
	if !s.Opened {
		return nil, notFound()
	}
	if s.Erased { // what was counted last has nobody to be told to
		return nil, nil
	}
	var events []Event
	for _, news := range s.Reached.News(c) {
		events = append(events, news)
	}
	return events, nil
}

func (e LimitReached) evolve(s State) State {
	if s.Reached.Day != e.Day {
		s.Reached = Reached{Day: e.Day}
	}
	if i := slices.Index(Thresholds[:], e.Percent); i >= 0 {
		s.Reached.Limits[i] = max(s.Reached.Limits[i], e.Limit)
	}
	return s
}
