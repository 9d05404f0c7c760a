package api

import (
	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/projections"
)

// What stands behind the API in production fits its ports.
var (
	_ AccountCommands      = (*commands.Accounts)(nil)
	_ AgentCommands        = (*commands.Agents)(nil)
	_ KeyCommands          = (*commands.Keys)(nil)
	_ ConversationCommands = (*commands.Conversations)(nil)
	_ Turns                = (*commands.Chat)(nil)
	_ Callers              = projections.Keys{}
	_ AgentQueries         = projections.Agents{}
	_ KeyQueries           = projections.Keys{}
	_ ChatQueries          = projections.Chat{}
	_ ConversationQueries  = projections.Conversations{}
	_ LogQueries           = (*projections.Logs)(nil)
	_ StatQueries          = (*projections.Stats)(nil)
)
