-- agents is filled by agent.created, agent.configured, agent.paused, agent.resumed, agent.deleted.
CREATE TABLE agents (
    agent         text COLLATE "C" PRIMARY KEY,
    account       text COLLATE "C" NOT NULL,
    slug          text COLLATE "C" NOT NULL,
    status        text NOT NULL,        -- active, paused, deleted
    version       integer NOT NULL,     -- of the settings
    settings      json NOT NULL,        -- json and not jsonb: it may hold any character, and is only read whole
    history_limit integer NOT NULL,     -- of the settings: the chat's query needs it as a number
    created_at    timestamptz NOT NULL,
    changed_at    timestamptz NOT NULL
);
CREATE INDEX agents_of_account ON agents (account, created_at, agent) WHERE status <> 'deleted';

-- agent_versions is filled by agent.created and agent.configured.
CREATE TABLE agent_versions (
    agent    text COLLATE "C" NOT NULL,
    version  integer NOT NULL,
    settings json NOT NULL,
    restores integer NOT NULL,          -- the version that was rolled back to, 0 for none
    actor    text NOT NULL,             -- the actor's kind …
    actor_id text NOT NULL,             -- … and id
    at       timestamptz NOT NULL,
    PRIMARY KEY (agent, version)
);
