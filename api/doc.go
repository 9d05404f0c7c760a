// Package api is the HTTP edge: a request comes in, becomes a command or a query, and its outcome goes out.
//
// openapi.yaml is written first and is the truth; models and the server interface are generated from it (openapi.gen.go),
// requests are checked against it, and the routes carry its scopes. server.go is the path of a request from top to
// bottom; problem.go is the only place that turns an error into an answer.
package api
