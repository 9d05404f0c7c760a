-- accounts is filled by account.opened, account.plan_changed, account.suspended, account.resumed,
-- account.erased.
CREATE TABLE accounts (
    account    text COLLATE "C" PRIMARY KEY,
    name       text NOT NULL,
    plan       text NOT NULL,
    per_minute bigint NOT NULL,     -- the account's own limits, 0 where the plan's hold
    per_day    bigint NOT NULL,
    suspended  boolean NOT NULL,
    reason     text NOT NULL,       -- of the suspension
    erased_at  timestamptz,             -- null until it is erased: then its name is gone, and it stays suspended
    opened_at  timestamptz NOT NULL,
    changed_at timestamptz NOT NULL
);
CREATE INDEX accounts_in_order ON accounts (opened_at, account);
CREATE INDEX accounts_erased ON accounts (account) WHERE erased_at IS NOT NULL;
