package projections

// This file stands behind the erasure: what ClickHouse holds of a conversation or an account is blanked, in every
// generation of the folds and in the request log, and the parts that held it are gone when it returns.
//
// Rows are not deleted, they lose what was said in them. So they are what a rebuild makes of the same events, counts and
// times stay, and one rewrites the columns that hold texts instead of whole tables.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

const (
	// clickhouseForgetTimeout bounds one statement: it rewrites parts, and may have to wait for merges.
	clickhouseForgetTimeout = 30 * time.Minute
	// clickhouseForgetGroup is how many conversations one statement names; it is kept with every part that it changes.
	clickhouseForgetGroup = 500
	// clickhouseForgetLook is the pause between two looks at what is still on the disk.
	clickhouseForgetLook = 500 * time.Millisecond
	// clickhousePartsPatience bounds the wait for parts that were replaced. A query that reads one keeps it.
	clickhousePartsPatience = 2 * time.Minute
)

// Forgetting erases from ClickHouse.
type Forgetting struct {
	conn     driver.Conn
	requests string
	folds    func(ctx context.Context) ([]string, error)
}

// NewForgetting erases from the request log in one database and from the folds in others: those that serve and those that
// a rebuild is filling.
func NewForgetting(conn driver.Conn, requests string, folds func(ctx context.Context) ([]string, error)) *Forgetting {
	return &Forgetting{conn: conn, requests: requests, folds: folds}
}

// ForgottenConversation is a conversation whose keys have been destroyed.
type ForgottenConversation struct {
	Account string
	Agent   string
	Stream  string
	Keys    []string
}

// Now is ClickHouse's clock.
func (f *Forgetting) Now(ctx context.Context) (time.Time, error) { return clickhouseNow(ctx, f.conn) }

// Settled waits until nothing comes in any more that was opened before a time, which Now has given.
func (f *Forgetting) Settled(ctx context.Context, since time.Time) error {
	for {
		now, err := f.Now(ctx)
		if err != nil {
			return err
		}
		left := since.Add(clickhouseFence + clickhouseFenceMargin).Sub(now)
		if left < 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(left + time.Millisecond):
		}
	}
}

const (
	clickhouseBlankMessages      = `ALTER TABLE {db:Identifier}.messages UPDATE text = '', erased = true WHERE said AND NOT erased AND `
	clickhouseBlankConversations = `ALTER TABLE {db:Identifier}.conversations UPDATE conversation_id = '', metadata = '', erased = true
		WHERE kind = 'started' AND NOT erased AND `
	clickhouseBlankRequests = `ALTER TABLE {db:Identifier}.requests UPDATE conversation_id = '', path = '', query = '', client_request_id = '',
		remote_ip = '', user_agent = '', request_headers = '', response_headers = '', request_body = '', response_body = '',
		request_truncated = false, response_truncated = false, request_bytes = 0, response_bytes = 0, words = '', erased = true
		WHERE NOT erased AND `

	clickhouseOfConversations = `account IN {accounts:Array(String)} AND agent_id IN {agents:Array(String)} AND stream IN {streams:Array(String)}`
	clickhouseOfKeys          = `account IN {accounts:Array(String)} AND data_key IN {keys:Array(String)}`
	clickhouseOfAccount       = `account IN {accounts:Array(String)}`
)

// Conversations blanks what was said in conversations. It is to be called when their keys have been destroyed and Settled
// has waited for that; it may be called again.
func (f *Forgetting) Conversations(ctx context.Context, gone []ForgottenConversation) error {
	var work []clickhouseBlank
	for len(gone) > 0 {
		group := gone[:min(len(gone), clickhouseForgetGroup)]
		gone = gone[len(group):]
		var streams, keys []string
		accounts, agents := map[string]bool{}, map[string]bool{}
		for _, one := range group {
			accounts[one.Account], agents[one.Agent] = true, true
			streams = append(streams, one.Stream)
			keys = append(keys, one.Keys...)
		}
		parameters := clickhouse.Parameters{
			"accounts": clickhouseArray(slices.Sorted(maps.Keys(accounts))), "agents": clickhouseArray(slices.Sorted(maps.Keys(agents))),
			"streams": clickhouseArray(streams), "keys": clickhouseArray(keys),
		}
		work = append(work, clickhouseBlank{
			messages: clickhouseBlankMessages + clickhouseOfConversations, conversations: clickhouseBlankConversations + clickhouseOfConversations,
			requests: clickhouseBlankRequests + clickhouseOfKeys, parameters: parameters,
		})
	}
	return f.blank(ctx, work)
}

// Account blanks everything that was said in an account.
func (f *Forgetting) Account(ctx context.Context, account string) error {
	return f.blank(ctx, []clickhouseBlank{{
		messages: clickhouseBlankMessages + clickhouseOfAccount, conversations: clickhouseBlankConversations + clickhouseOfAccount,
		requests: clickhouseBlankRequests + clickhouseOfAccount, parameters: clickhouse.Parameters{"accounts": clickhouseArray([]string{account})},
	}})
}

// clickhouseBlank is one statement for each table.
type clickhouseBlank struct {
	messages, conversations, requests string
	parameters                        clickhouse.Parameters
}

func (f *Forgetting) blank(ctx context.Context, work []clickhouseBlank) error {
	ctx, cancel := context.WithTimeout(ctx, clickhouseForgetTimeout)
	defer cancel()
	folds, err := f.folds(ctx)
	if err != nil {
		return err
	}
	tables, err := f.tables(ctx, append(folds, f.requests))
	if err != nil {
		return err
	}
	for i, one := range work {
		for _, table := range tables {
			sql := map[string]string{"messages": one.messages, "conversations": one.conversations, "requests": one.requests}[table.name]
			// A part that is rewritten takes all statements along that have come by then; so only the last one is waited for.
			if err := f.mutate(ctx, table, sql, one.parameters, i == len(work)-1); err != nil {
				return err
			}
		}
	}
	return f.swept(ctx, tables)
}

type clickhouseTable struct{ database, name string }

// tables are those with texts that exist: a rebuild may have made its database and not yet its tables.
func (f *Forgetting) tables(ctx context.Context, databases []string) ([]clickhouseTable, error) {
	ctx, cancel := context.WithTimeout(ctx, clickhouseQueryTimeout)
	defer cancel()
	ctx = clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{"databases": clickhouseArray(databases)}))
	var found []struct {
		Database string `ch:"database"`
		Name     string `ch:"name"`
	}
	const query = `SELECT database, name FROM system.tables
		WHERE database IN {databases:Array(String)} AND name IN ('messages', 'conversations', 'requests') ORDER BY database, name`
	if err := f.conn.Select(ctx, &found, query); err != nil {
		return nil, fmt.Errorf("list the tables that hold texts: %w", err)
	}
	tables := make([]clickhouseTable, len(found))
	for i, one := range found {
		tables[i] = clickhouseTable{one.Database, one.Name}
	}
	return tables, nil
}

func (f *Forgetting) mutate(ctx context.Context, table clickhouseTable, sql string, parameters clickhouse.Parameters, wait bool) error {
	given := clickhouse.Parameters{"db": table.database}
	for name, value := range parameters {
		if strings.Contains(sql, "{"+name+":") {
			given[name] = value
		}
	}
	settings := clickhouse.Settings{"mutations_sync": 0}
	if wait {
		settings["mutations_sync"] = 2
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithParameters(given), clickhouse.WithSettings(settings))
	if err := f.conn.Exec(ctx, sql); err != nil {
		const unknownTable, unknownDatabase = 60, 81
		if exception, ok := errors.AsType[*clickhouse.Exception](err); ok && (exception.Code == unknownTable || exception.Code == unknownDatabase) {
			return nil // a rebuild has switched and dropped it meanwhile
		}
		return fmt.Errorf("blank %s.%s: %w", table.database, table.name, err)
	}
	return nil
}

// swept waits until the parts are gone that the statements have replaced.
func (f *Forgetting) swept(ctx context.Context, tables []clickhouseTable) error {
	ctx, cancel := context.WithTimeout(ctx, clickhousePartsPatience)
	defer cancel()
	replaced, err := f.replaced(ctx, tables)
	for err == nil && len(replaced) > 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d replaced parts to go: %w", len(replaced), context.Cause(ctx))
		case <-time.After(clickhouseForgetLook):
		}
		var now map[string]bool
		if now, err = f.replaced(ctx, tables); err == nil {
			for part := range replaced {
				if !now[part] {
					delete(replaced, part)
				}
			}
		}
	}
	return err
}

func (f *Forgetting) replaced(ctx context.Context, tables []clickhouseTable) (map[string]bool, error) {
	names := make([]string, len(tables))
	for i, table := range tables {
		names[i] = table.database + "." + table.name
	}
	ctx = clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{"tables": clickhouseArray(names)}))
	var parts []struct {
		Name string `ch:"name"`
	}
	const query = `SELECT concat(database, '.', table, ' ', name) AS name FROM system.parts
		WHERE NOT active AND has({tables:Array(String)}, concat(database, '.', table))`
	if err := f.conn.Select(ctx, &parts, query); err != nil {
		return nil, fmt.Errorf("list the replaced parts: %w", err)
	}
	found := make(map[string]bool, len(parts))
	for _, part := range parts {
		found[part.Name] = true
	}
	return found, nil
}

// clickhouseArray writes texts as the value of a parameter of type Array(String).
func clickhouseArray(texts []string) string {
	quoted := make([]string, len(texts))
	for i, text := range texts {
		quoted[i] = "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(text) + "'"
	}
	return "[" + strings.Join(quoted, ",") + "]"
}
