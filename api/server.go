package api

// This file stands where a request comes in. It is the path that every request takes, from top to bottom.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"github.com/gorilla/mux"
	"github.com/rs/cors"

	"github.com/nidohq/nido/commands"
	"github.com/nidohq/nido/projections"
)

// Server answers requests. It holds no state that matters.
type Server struct {
	config       Config
	logger       *slog.Logger
	publicHost   string
	followers    followers
	holds        holds                  // the streams whose connections have been taken over
	lasts        time.Duration          // how long those have lasted that are
	cors         *cors.Cors             // nil where browsers of other origins are not let in
	deprecations map[string]deprecation // by their items
	management   *mux.Router            // what the management API serves
	agentHost    *mux.Router            // what agents' own hosts serve
	gates        *gates                 // how many requests it works on at a time
	settling     chan struct{}          // has one for each idempotent request that is settled behind its answer

	contract, errorsHTML, errorsMarkdown static
}

// New builds the handler of the whole API. It fails where the configuration or openapi.yaml is at fault.
func New(config Config) (*Server, error) {
	contract, err := readContract(document)
	if err != nil {
		return nil, err
	}
	return newServer(config, contract)
}

// newServer takes the contract as well: what a mark in it does is tested with marks that no version of ours has.
func newServer(config Config, contract contract) (*Server, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	config = config.withDefaults()
	public, err := url.Parse(config.PublicURL)
	if err != nil {
		return nil, fmt.Errorf("parse PublicURL: %w", err)
	}
	s := &Server{
		config: config, logger: config.Logger, lasts: lasts, publicHost: public.Hostname(),
		management: mux.NewRouter().SkipClean(true), agentHost: mux.NewRouter().SkipClean(true), gates: newGates(),
		contract: newStatic("application/json", contract.json), settling: make(chan struct{}, maxSettling),
	}
	s.deprecations = map[string]deprecation{}
	for _, op := range contract.operations {
		for _, mark := range op.deprecations {
			s.deprecations[mark.item()] = mark
		}
	}
	html, err := errorsHTML()
	if err != nil {
		return nil, err
	}
	s.errorsHTML, s.errorsMarkdown = newStatic("text/html; charset=utf-8", html), newStatic("text/markdown; charset=utf-8", []byte(ErrorsPage()))
	s.cors = crossOrigin(config.CORSOrigins)
	return s, s.addRoutes(contract.operations)
}

// addRoutes takes the generated routes one by one, finds the operation behind each, and puts it under the hosts that
// serve it, behind the steps of serve.
func (s *Server) addRoutes(ops map[string]*operation) error {
	generated := mux.NewRouter()
	HandlerWithOptions(s, GorillaServerOptions{BaseRouter: generated, ErrorHandlerFunc: s.refuseParameter})
	err := generated.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		template, err := route.GetPathTemplate()
		if err != nil {
			return err
		}
		methods, err := route.GetMethods()
		if err != nil {
			return err
		}
		op := ops[methods[0]+" "+template]
		if op == nil {
			return fmt.Errorf("%s %s is not in openapi.yaml", methods[0], template)
		}
		handler := s.serve(op, route.GetHandler())
		if op.onManagement {
			s.management.Handle(template, handler).Methods(op.methods()...)
		}
		if op.onAgentHost {
			s.agentHost.Handle(template, handler).Methods(op.methods()...)
		}
		return nil
	})
	for router, other := range map[*mux.Router]*mux.Router{s.management: s.agentHost, s.agentHost: s.management} {
		router.NotFoundHandler = s.refusing(func(r *http.Request) error { return s.nowhere(r, other) })
		router.MethodNotAllowedHandler = s.refusing(func(r *http.Request) error {
			return problem("method_not_allowed").with("Allow", strings.Join(allowed(router, r), ", "))
		})
	}
	return err
}

// ServeHTTP is the first part of the path, which every request takes: an id, the request log's line, a net under
// panics, the host, the route.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	capture := s.receive(w, r)
	r = capture.request
	defer capture.leave()
	defer s.recover(capture, r)

	if s.cors == nil {
		s.route(capture, r)
	} else {
		s.cors.ServeHTTP(capture, r, s.route)
	}
	if rest := capture.x.rest; rest != nil {
		rest()
	}
}

// receive begins an exchange.
func (s *Server) receive(w http.ResponseWriter, r *http.Request) *capture {
	now := s.config.Clock()
	x := &exchange{id: projections.NewRequestID(now), inputs: commands.NewInputs(now), header: w.Header(), client: s.config.TrustedProxies.client(r)}
	r = s.startSpan(w, withExchange(r, x), x)
	w.Header().Set("X-Request-Id", x.id)
	return s.startCapture(w, r, x, now)
}

// route finds the host and the route.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	x := exchangeOf(r)
	at, err := s.locate(r)
	switch {
	case headerBytes(r) > maxHeaderBytes:
		s.refuse(w, r, problem("headers_too_large").with("Connection", "close"))
	case err != nil:
		s.refuse(w, r, err)
	case !printable(r.URL.Path):
		s.refuse(w, r, problem("not_found")) // Postgres takes neither broken UTF-8 nor NUL
	case at.slug != "":
		x.slug = at.slug
		s.agentHost.ServeHTTP(w, r)
	default:
		s.management.ServeHTTP(w, r)
	}
}

// serve is the second part of the path, which every known route takes, and ends at the handler.
func (s *Server) serve(op *operation, handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		x := exchangeOf(r)
		x.op, x.record.Route = op, op.route
		x.refused = op.chat // until its turn is accepted, whatever stops it before
		s.config.Observer.RequestBegan(op.id)
		ctx, cancel := s.deadline(w, r, op)
		defer cancel()
		r = r.WithContext(ctx)

		if !op.open && !s.config.Open() {
			s.refuse(w, r, &Problem{Code: "unavailable", cause: errClosed})
			return
		}
		if err := s.checkBodyHeaders(r, op); err != nil {
			s.refuse(w, r, err)
			return
		}
		if err := s.present(r, op); err != nil {
			s.refuse(w, r, err)
			return
		}
		// Who sends a body may take their time, which is no load; without one the first look-up is behind the door, too.
		defer func() { x.leave() }()
		sent := op.body != nil || r.ContentLength != 0 // where there is to be none, somebody may send one all the same
		if !sent {
			if err := s.enter(r, op); err != nil {
				s.refuse(w, r, err)
				return
			}
		}
		if err := s.authenticate(r, op); err != nil {
			s.refuse(w, r, err)
			return
		}
		if err := s.readBody(w, r, op); err != nil {
			s.refuse(w, r, err)
			return
		}
		if sent {
			if err := s.enter(r, op); err != nil {
				s.refuse(w, r, err)
				return
			}
		}
		if err := validate(r, op, x.body); err != nil {
			s.refuse(w, r, err)
			return
		}
		if err := s.announce(w, r, x); err != nil {
			s.refuse(w, r, err)
			return
		}
		s.once(w, r, handler)
	})
}

// errClosed is what the log has of requests that came to a node which does not serve them, or not yet.
var errClosed = errors.New("the node does not serve this, or not yet")

// deadline bounds how long a route may take. A turn bounds itself: to it, a context that ends is a client that left.
func (s *Server) deadline(w http.ResponseWriter, r *http.Request, op *operation) (context.Context, context.CancelFunc) {
	limit := s.config.RouteTimeout
	if op.chat || op.streams {
		limit = s.config.ChatTimeout + commands.LinePatience // a turn may have to wait before it begins
	}
	// A response writer without deadlines belongs to a test: there is no connection to bound.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(limit + 10*time.Second))
	if op.chat || op.streams {
		return r.Context(), func() {} // which ends with the request, and its stream may outlast the handler
	}
	return context.WithTimeout(r.Context(), limit)
}

// recover answers a panic with an internal error, and keeps what it said for the log.
func (s *Server) recover(w *capture, r *http.Request) {
	reason := recover()
	switch reason {
	case nil:
		return
	case http.ErrAbortHandler:
		panic(reason) // somebody has said why already
	}
	s.logger.ErrorContext(r.Context(), "handler panicked", "panic", fmt.Sprint(reason), "stack", string(debug.Stack()))
	if w.status != 0 { // half an answer is out: only a broken connection says that it is not whole
		panic(http.ErrAbortHandler)
	}
	s.refuse(w, r, &Problem{Code: "internal_error", cause: errors.New("panic")})
}
