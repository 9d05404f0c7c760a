-- hosts is filled by host.claimed and host.bound; host.released deletes the row.
CREATE TABLE hosts (
    slug       text COLLATE "C" PRIMARY KEY,
    account    text COLLATE "C" NOT NULL,
    agent      text COLLATE "C" NOT NULL,
    bound      boolean NOT NULL,        -- only a bound host routes
    claimed_at timestamptz NOT NULL
);
CREATE INDEX hosts_of_account ON hosts (account);
CREATE INDEX hosts_unbound ON hosts (claimed_at) WHERE NOT bound;
