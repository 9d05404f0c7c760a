-- +goose Up

CREATE TABLE admission_counters (
    account text COLLATE "C" NOT NULL,
    counter text COLLATE "C" NOT NULL,
    seconds bigint[] NOT NULL,
    counts  bigint[] NOT NULL,
    touched timestamptz NOT NULL,
    PRIMARY KEY (account, counter)
) WITH (fillfactor = 30, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000);

COMMENT ON TABLE admission_counters IS
    'How many requests came in: one row per counter of an account (a key''s minute, an agent''s minute and day, the account''s day). Written by admit() only, under the account''s lock; the sweeper drops rows that nothing counts on any more.';
COMMENT ON COLUMN admission_counters.counter IS 'The policy, a colon, and whose requests: "key:3kTMd8fQ2LxZ", "agent:agt_…", "agent-day:agt_…", "day:".';
COMMENT ON COLUMN admission_counters.seconds IS 'When each bucket begins, as Unix time, oldest first: a second of the last 61, or the day''s midnight in UTC.';
COMMENT ON COLUMN admission_counters.counts IS 'The requests in each bucket.';
COMMENT ON COLUMN admission_counters.touched IS 'When a request was last counted here.';

-- admit lets requests of one account in, in their order, each onto all its counters or onto none. It is one call and so
-- one transaction; requests that wait on a node come together in the next one.
--
-- It commits without waiting for the disk. A count that a crash of the server forgets is one of its last few hundred
-- milliseconds; nothing else is built on it, and what is written before it stays in order. The limit then holds from the
-- crash on, where a wait for the disk would cost every request what a commit costs.
--
-- The instant is this server's and is read behind the lock, so that it is the same clock for all nodes and does not run
-- backwards between two calls. Where the clock itself is set back, the buckets move with it: never more than the limit.
-- +goose StatementBegin
CREATE FUNCTION admit(
    of_account text,
    names      text[],      -- the counters, each once
    daily      boolean[],   -- whether it counts since midnight
    starts     integer[],   -- where each request's rules begin, and where the last one's end
    counter    integer[],   -- of each rule: which of the names
    bound      bigint[],    -- of each rule: how many may count
    at         timestamptz, -- the instant; NULL means this server's clock
    OUT instant      timestamptz,
    OUT admitted     boolean[], -- of each request
    OUT used         bigint[],  -- of each rule: what counted before the request
    OUT bucket_of    integer[], -- the counters as they are left: which of the names …
    OUT bucket_at    bigint[],  -- … when the bucket begins …
    OUT bucket_count bigint[]   -- … and what it holds
) LANGUAGE plpgsql AS $$
DECLARE
    now_second bigint;
    midnight   bigint;
    newest     bigint;
    have       bigint[] := '{}'; -- of each counter: what counts now
    taken      bigint[] := '{}'; -- of each counter: what came in
    old_at     bigint[] := '{}'; -- the buckets that count, of all counters …
    old_count  bigint[] := '{}';
    moved      boolean[] := '{}'; -- of each counter: whether the clock was set back behind its buckets
    last       integer[] := '{0}'; -- … of which counter i has those behind last[i], up to last[i + 1]
    at_i       bigint[];
    count_i    bigint[];
    sum_i      bigint;
    moved_i    boolean;
    has_room   boolean;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    PERFORM pg_advisory_xact_lock(1852400745, hashtext(of_account));
    instant := coalesce(at, clock_timestamp());
    now_second := floor(extract(epoch FROM instant));
    midnight := now_second - now_second % 86400;

    FOR i IN 1..cardinality(names) LOOP
        newest := CASE WHEN daily[i] THEN midnight ELSE now_second END;
        SELECT coalesce(sum(b.n), 0), coalesce(array_agg(b.t ORDER BY b.t), '{}'), coalesce(array_agg(b.n ORDER BY b.t), '{}'),
                coalesce(bool_or(b.ahead > 0), false)
            INTO sum_i, at_i, count_i, moved_i
            FROM admission_counters c
            CROSS JOIN LATERAL (
                SELECT s - a.ahead, n, a.ahead
                FROM (SELECT greatest(0, c.seconds[cardinality(c.seconds)] - newest) AS ahead) a, unnest(c.seconds, c.counts) AS x(s, n)
            ) AS b(t, n, ahead)
            WHERE c.account = of_account AND c.counter = names[i] AND b.t >= CASE WHEN daily[i] THEN midnight ELSE now_second - 60 END;
        have := have || sum_i;
        taken := taken || 0::bigint;
        moved := moved || moved_i;
        old_at := old_at || at_i;
        old_count := old_count || count_i;
        last := last || cardinality(old_at);
    END LOOP;

    used := array_fill(0::bigint, ARRAY[cardinality(counter)]);
    admitted := array_fill(true, ARRAY[cardinality(starts) - 1]);
    FOR r IN 1..cardinality(starts) - 1 LOOP
        has_room := true;
        FOR k IN starts[r]..starts[r + 1] - 1 LOOP
            used[k] := have[counter[k]];
            has_room := has_room AND used[k] < bound[k];
        END LOOP;
        admitted[r] := has_room;
        IF has_room THEN
            FOR k IN starts[r]..starts[r + 1] - 1 LOOP
                have[counter[k]] := have[counter[k]] + 1;
                taken[counter[k]] := taken[counter[k]] + 1;
            END LOOP;
        END IF;
    END LOOP;

    bucket_of := '{}';
    bucket_at := '{}';
    bucket_count := '{}';
    FOR i IN 1..cardinality(names) LOOP
        at_i := old_at[last[i] + 1:last[i + 1]];
        count_i := old_count[last[i] + 1:last[i + 1]];
        newest := CASE WHEN daily[i] THEN midnight ELSE now_second END;
        IF taken[i] > 0 AND at_i[cardinality(at_i)] = newest THEN
            count_i[cardinality(count_i)] := count_i[cardinality(count_i)] + taken[i];
        ELSIF taken[i] > 0 THEN
            at_i := at_i || newest;
            count_i := count_i || taken[i];
        END IF;
        IF taken[i] > 0 OR moved[i] THEN
            INSERT INTO admission_counters (account, counter, seconds, counts, touched)
                VALUES (of_account, names[i], at_i, count_i, instant)
                ON CONFLICT ON CONSTRAINT admission_counters_pkey
                DO UPDATE SET seconds = excluded.seconds, counts = excluded.counts, touched = excluded.touched;
        END IF;
        bucket_of := bucket_of || array_fill(i, ARRAY[cardinality(at_i)]);
        bucket_at := bucket_at || at_i;
        bucket_count := bucket_count || count_i;
    END LOOP;
END $$;
-- +goose StatementEnd
