package admission

// This file stands at Postgres: the one statement that admits, the one that only looks, and what their answers mean.

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/nidohq/nido/domain/quota"
)

// plan is a batch as the statement takes it.
type plan struct {
	requests []quota.Request
	names    []string // the counters, each once
	daily    []bool
	starts   []int32 // from 1, as Postgres counts
	counter  []int32
	bound    []int64
}

func newPlan(requests []quota.Request) plan {
	p := plan{requests: requests, starts: []int32{1}}
	known := map[string]int32{}
	for _, request := range requests {
		for _, rule := range request.Rules {
			name := rule.Counter()
			if known[name] == 0 {
				p.names, p.daily = append(p.names, name), append(p.daily, rule.Policy.Daily())
				known[name] = int32(len(p.names))
			}
			p.counter, p.bound = append(p.counter, known[name]), append(p.bound, rule.Limit)
		}
		p.starts = append(p.starts, int32(len(p.counter)+1))
	}
	return p
}

// result is what Postgres made of a batch.
type result struct {
	plan
	instant  time.Time
	admitted []bool
	used     []int64
	counters []quota.Counter // by the index of their name
}

// admit runs the call.
func (a *Admission) admit(ctx context.Context, account string, requests []quota.Request) (result, error) {
	const query = `SELECT instant, admitted, used, bucket_of, bucket_at, bucket_count FROM admit($1, $2, $3, $4, $5, $6, $7)`
	made := result{plan: newPlan(requests)}
	var of []int32
	var at, count []int64
	err := a.pool.QueryRow(ctx, query, account, made.names, made.daily, made.starts, made.counter, made.bound, a.at()).
		Scan(&made.instant, &made.admitted, &made.used, &of, &at, &count)
	if err != nil {
		return made, fmt.Errorf("count requests against their limits: %w", err)
	}
	made.counters = make([]quota.Counter, len(made.names))
	for i := range of {
		made.counters[of[i]-1] = append(made.counters[of[i]-1], quota.Bucket{Second: at[i], Count: count[i]})
	}
	return made, nil
}

// verdict is the answer to the i-th request.
func (r result) verdict(i int) quota.Verdict {
	verdict := quota.Verdict{Admitted: r.admitted[i], At: r.instant}
	for k, rule := range r.requests[i].Rules {
		at := int(r.starts[i]) - 1 + k
		counter, used := r.counters[r.counter[at]-1], r.used[at]
		if verdict.Admitted {
			used++
		}
		standing := counter.Stand(rule, used, r.instant)
		verdict.Standings = append(verdict.Standings, standing)
		if !verdict.Admitted && standing.Remaining == 0 && standing.Reset >= verdict.RetryAfter {
			verdict.Blocking, verdict.RetryAfter = rule, standing.Reset
		}
	}
	return verdict
}

// Standing says where a request's rules stand, and counts nothing.
func (a *Admission) Standing(ctx context.Context, request quota.Request) ([]quota.Standing, error) {
	// Buckets that no longer count are left out; the newest is never of a later time than now, or the clock was set back.
	const query = `
		SELECT w.i, b.second, b.count, clock.at
		FROM (SELECT coalesce($4::timestamptz, clock_timestamp()) AS at) clock
		CROSS JOIN unnest($2::text[], $3::boolean[]) WITH ORDINALITY AS w(name, daily, i)
		LEFT JOIN admission_counters c ON c.account = $1 AND c.counter = w.name
		LEFT JOIN LATERAL unnest(c.seconds, c.counts) AS b(second, count) ON b.second >= CASE
			WHEN w.daily THEN floor(extract(epoch FROM clock.at) / 86400) * 86400
			ELSE floor(extract(epoch FROM clock.at)) - 60 END
		ORDER BY w.i, b.second`
	if len(request.Rules) == 0 {
		return nil, nil
	}
	plan := newPlan([]quota.Request{request})
	rows, err := a.pool.Query(ctx, query, request.Account, plan.names, plan.daily, a.at())
	if err != nil {
		return nil, fmt.Errorf("look at the limits: %w", err)
	}
	counters, now := make([]quota.Counter, len(plan.names)), time.Time{}
	var of int
	var second, count *int64
	_, err = pgx.ForEachRow(rows, []any{&of, &second, &count, &now}, func() error {
		if second != nil && count != nil {
			counters[of-1] = append(counters[of-1], quota.Bucket{Second: *second, Count: *count})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look at the limits: %w", err)
	}
	standings := make([]quota.Standing, len(request.Rules))
	for i, rule := range request.Rules {
		counter := counters[plan.counter[i]-1]
		standings[i] = counter.Stand(rule, counter.Used(), now)
	}
	return standings, nil
}

// Sweep drops counters on which nothing counts any more, and says how many.
func (a *Admission) Sweep(ctx context.Context) (int64, error) {
	const query = `DELETE FROM admission_counters WHERE touched < now() - interval '2 days'`
	done, err := a.pool.Exec(ctx, query)
	if err != nil {
		return 0, fmt.Errorf("drop counters that nothing counts on: %w", err)
	}
	return done.RowsAffected(), nil
}
