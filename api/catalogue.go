package api

// This file stands where an error becomes an answer: every code that a caller can meet, with its status and what it
// says. docs/errors.md and GET /errors are written from this table, and no other place picks a status.

import "net/http"

// Entry is what one error code means.
type Entry struct {
	Code      string
	Status    int
	Type      ErrorEnvelopeErrorType
	Retryable bool   // the same request can succeed later
	English   string // the sentence for the caller, where nothing more precise is known
	Spanish   string
	Advice    string // what to do about it, for the documentation
}

// catalogue lists the codes by status. A code is never renamed or given another meaning.
var catalogue = []Entry{
	{"invalid_request", http.StatusBadRequest, InvalidRequestError, false, "The request is not valid.", "La solicitud no es válida.",
		"`param` names the field, parameter or header at fault, `message` says what it must be. Unknown fields and query parameters are refused too."},

	{"missing_api_key", http.StatusUnauthorized, AuthenticationError, false, "No API key was sent. It goes into the header Authorization, as Bearer ha_….", "No se envió ninguna clave de API. Va en el encabezado Authorization, como Bearer ha_….",
		"Send `Authorization: Bearer ha_…`."},
	{"invalid_api_key", http.StatusUnauthorized, AuthenticationError, false, "This is not a key of ours.", "Esta clave no es nuestra.",
		"Check that the key was copied whole."},
	{"revoked_api_key", http.StatusUnauthorized, AuthenticationError, false, "This key has been revoked.", "Esta clave fue revocada.",
		"Issue another key."},
	{"expired_api_key", http.StatusUnauthorized, AuthenticationError, false, "This key has expired.", "Esta clave venció.",
		"Issue another key."},

	{"missing_scope", http.StatusForbidden, PermissionError, false, "The key lacks a scope that this needs.", "A la clave le falta un permiso para esto.",
		"`details.scope` names it. Use a key that has it."},
	{"agent_not_allowed", http.StatusForbidden, PermissionError, false, "The key is bound to other agents.", "La clave está limitada a otros agentes.",
		"Use a key that is bound to this agent, or to none."},
	{"ip_not_allowed", http.StatusForbidden, PermissionError, false, "The key may not be used from this address.", "La clave no puede usarse desde esta dirección.",
		"Call from an address within the key's `ipAllow`; `details.address` is the one that this request came from, as far as the installation can tell. Behind proxies the installation must name them in `NIDO_TRUSTED_PROXIES`."},
	{"account_suspended", http.StatusForbidden, PermissionError, false, "The account is suspended.", "La cuenta está suspendida.",
		"Ask whoever runs this installation."},
	{"grant_exceeded", http.StatusForbidden, PermissionError, false, "A key cannot hand out more than it has itself.", "Una clave no puede otorgar más de lo que tiene.",
		"`param` says what goes too far: scopes, agents, networks or the expiry. Use a key that has it. A secret in its grace has no more time than that."},

	{"not_found", http.StatusNotFound, NotFoundError, false, "There is no such route.", "No existe esa ruta.",
		"Compare method and path with `/openapi.json`. Chat by `/api/v1/chat` is served on an agent's own host only."},
	{"host_not_found", http.StatusNotFound, NotFoundError, false, "No agent has this host.", "Ningún agente tiene este host.",
		"An agent's host is its `slug` below the base domain; its `endpoint` says it whole."},
	{"agent_not_found", http.StatusNotFound, NotFoundError, false, "There is no such agent.", "No existe ese agente.",
		"It may have been deleted, or belong to another account."},
	{"version_not_found", http.StatusNotFound, NotFoundError, false, "The agent has no such version.", "El agente no tiene esa versión.",
		"`GET /api/agents/{id}/versions` lists them."},
	{"account_not_found", http.StatusNotFound, NotFoundError, false, "There is no such account.", "No existe esa cuenta.",
		"`GET /api/accounts` lists them."},
	{"key_not_found", http.StatusNotFound, NotFoundError, false, "There is no such key.", "No existe esa clave.",
		"Its id is `key_…`; `GET /api/keys` lists them."},
	{"conversation_not_found", http.StatusNotFound, NotFoundError, false, "There is no such conversation.", "No existe esa conversación.",
		"Say `?agentId=` as well where the client chose the conversation's id."},
	{"turn_not_found", http.StatusNotFound, NotFoundError, false, "There is no such turn.", "No existe ese turno.",
		"Its id is in every event of its stream, in front of the colon. It may have been erased with its conversation."},
	{"erasure_not_found", http.StatusNotFound, NotFoundError, false, "There is no such erasure.", "No existe ese borrado.",
		"Its id is in the answer to the request that asked for it."},
	{"log_not_found", http.StatusNotFound, NotFoundError, false, "The log has no such request.", "El registro no tiene esa solicitud.",
		"Requests appear in the log within seconds; those without a known key are not kept."},

	{"method_not_allowed", http.StatusMethodNotAllowed, InvalidRequestError, false, "The route has no such method.", "La ruta no admite ese método.",
		"The `Allow` header lists its methods."},
	{"request_timeout", http.StatusRequestTimeout, InvalidRequestError, true, "The body did not arrive in time.", "El cuerpo no llegó a tiempo.",
		"Send it again."},

	{"agent_paused", http.StatusConflict, ConflictError, false, "The agent is paused.", "El agente está en pausa.",
		"`POST /api/agents/{id}/resume` lets it answer again."},
	{"slug_taken", http.StatusConflict, ConflictError, false, "The slug is taken.", "El slug ya está en uso.",
		"Choose another, or leave it out: one is made from the name."},
	{"key_revoked", http.StatusConflict, ConflictError, false, "The key has been revoked.", "La clave fue revocada.",
		"Issue another: a revoked key never works again."},
	{"account_exists", http.StatusConflict, ConflictError, false, "This account has been opened already.", "Esta cuenta ya fue abierta.",
		"Read it instead."},
	{"conversation_busy", http.StatusConflict, ConflictError, true, "The agent is still answering the message before.", "El agente todavía está respondiendo el mensaje anterior.",
		"Send the message again once the reply before has come, or with `\"onBusy\": \"queue\"`, which lets it wait: for 60 seconds, with at most 15 others. Either way the message counts against the limits."},
	{"conversation_erased", http.StatusConflict, ConflictError, false, "The conversation has been erased.", "La conversación fue borrada.",
		"It was erased while the agent was answering, or this is the repetition of a request in it. A new message under the same id begins a new conversation."},
	{"account_erased", http.StatusConflict, ConflictError, false, "The account has been erased.", "La cuenta fue borrada.",
		"Nothing about it can be changed any more."},
	{"turn_closed", http.StatusConflict, ConflictError, false, "This turn has ended already.", "Este turno ya terminó.",
		"Read the conversation's messages."},
	{"conflict", http.StatusConflict, ConflictError, true, "Other changes kept coming first.", "Otros cambios llegaron primero.",
		"Read the thing again and repeat the request."},
	{"idempotency_in_flight", http.StatusConflict, ConflictError, true, "The first request with this Idempotency-Key is still being worked on.", "La primera solicitud con esta Idempotency-Key todavía está en curso.",
		"Repeat the request a little later to get its answer."},

	{"payload_too_large", http.StatusRequestEntityTooLarge, InvalidRequestError, false, "The body has more than 1 MiB.", "El cuerpo supera 1 MiB.",
		"Send less."},
	{"unsupported_media_type", http.StatusUnsupportedMediaType, InvalidRequestError, false, "The body must be JSON, with Content-Type: application/json.", "El cuerpo debe ser JSON, con Content-Type: application/json.",
		"Send `Content-Type: application/json`, uncompressed."},
	{"idempotency_key_reused", http.StatusUnprocessableEntity, InvalidRequestError, false, "This Idempotency-Key was used for another request.", "Esta Idempotency-Key ya se usó para otra solicitud.",
		"Use a new key for every new request. Method, host, path, query and body of a repetition must be the same byte by byte."},

	{"rate_limited", http.StatusTooManyRequests, RateLimitError, true, "There were too many requests.", "Hubo demasiadas solicitudes.",
		"Repeat it after `Retry-After`, or `Retry-After-Ms`. `details.policy` says whose limit it is, `RateLimit` what is left of each; a refused request costs nothing."},

	{"too_many_followers", http.StatusTooManyRequests, RateLimitError, true, "Too many connections follow this turn already.", "Demasiadas conexiones ya siguen este turno.",
		"A turn may be followed a hundred times at once through one node. Close the connections that nobody reads."},
	{"headers_too_large", http.StatusRequestHeaderFieldsTooLarge, InvalidRequestError, false, "The request's line and headers have more than 32 KiB.", "La línea y los encabezados de la solicitud superan 32 KiB.",
		"Send less of them. From 256 KiB on, and where the request is not HTTP at all, the answer is a line of plain text with 431 or 400, and the connection is closed."},

	{"request_cancelled", 499, InvalidRequestError, true, "The client went away.", "El cliente se desconectó.",
		"Nobody sees this answer; the log has it for requests whose client closed the connection."},

	{"internal_error", http.StatusInternalServerError, APIError, false, "Something went wrong on our side.", "Algo salió mal de nuestro lado.",
		"Tell us the `requestId`."},

	{"upstream_error", http.StatusBadGateway, UpstreamError, true, "The model provider failed.", "El proveedor del modelo falló.",
		"Send the message again."},
	{"upstream_rejected", http.StatusBadGateway, UpstreamError, false, "The model provider refused the request.", "El proveedor del modelo rechazó la solicitud.",
		"Check the agent's settings: model, instructions, limits. If they are right, whoever runs this installation has to look at the provider's key."},
	{"model_not_found", http.StatusBadGateway, UpstreamError, false, "The model provider does not know the agent's model.", "El proveedor no conoce el modelo del agente.",
		"Change the agent's `model`."},
	{"interrupted", http.StatusBadGateway, UpstreamError, true, "The turn was interrupted before the reply was whole.", "El turno se interrumpió antes de completar la respuesta.",
		"Send the message again."},

	{"upstream_rate_limited", http.StatusServiceUnavailable, UpstreamError, true, "The model provider is limiting requests.", "El proveedor del modelo está limitando las solicitudes.",
		"Wait for `Retry-After`, which is the provider's own where it has said one, and send the message again."},
	{"upstream_busy", http.StatusServiceUnavailable, UpstreamError, true, "The model provider has as many calls under way as it may.", "El proveedor del modelo ya atiende todas las llamadas que puede.",
		"Wait and send the message again. Whoever runs this installation bounds the calls of each provider."},
	{"upstream_unavailable", http.StatusServiceUnavailable, UpstreamError, true, "The model provider keeps failing and is left alone for a moment.", "El proveedor del modelo falla una y otra vez y no se lo llama por unos segundos.",
		"Send the message again after `Retry-After`; then the provider is tried again."},
	{"unavailable", http.StatusServiceUnavailable, APIError, true, "A part of the installation is unavailable at the moment.", "Una parte del servicio no está disponible por ahora.",
		"Repeat the request after `Retry-After`, with the same `Idempotency-Key` where it writes."},
	{"overloaded", http.StatusServiceUnavailable, APIError, true, "There is more to do than can be done at the moment.", "Hay más trabajo del que se puede hacer por ahora.",
		"Nothing was done. Repeat the request after `Retry-After`, and later each time."},
	{"unknown_outcome", http.StatusServiceUnavailable, APIError, true, "It is not known yet whether the request took effect.", "Aún no se sabe si la solicitud tuvo efecto.",
		"Repeat it with the same `Idempotency-Key`: it takes effect once, and the repetition finds out."},
	{"analytics_unavailable", http.StatusServiceUnavailable, APIError, true, "Logs and statistics are unavailable at the moment.", "Los registros y las estadísticas no están disponibles por ahora.",
		"Repeat the request after `Retry-After`. Nothing is lost meanwhile, and nothing else is affected."},

	{"upstream_timeout", http.StatusGatewayTimeout, UpstreamError, true, "The model provider did not answer in time.", "El proveedor del modelo no respondió a tiempo.",
		"Send the message again. `details.timeout` says what took too long: `connect`, `first_token`, `idle` (the next token) or `total`."},
	{"timeout", http.StatusGatewayTimeout, APIError, true, "The request took too long.", "La solicitud tardó demasiado.",
		"Repeat the request; with the same `Idempotency-Key` where it writes."},
}

var entries = func() map[string]Entry {
	byCode := make(map[string]Entry, len(catalogue))
	for _, entry := range catalogue {
		byCode[entry.Code] = entry
	}
	return byCode
}()
