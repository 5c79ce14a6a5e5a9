package edge

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/wire"
)

const (
	// maxBody bounds a request's body in the API.
	maxBody = 64 << 10
	// stopTime is how long requests of the API may go on when the server stops.
	stopTime = time.Second
)

// httpServer serves the API and the page on connections that turned out not to be WebSockets.
type httpServer struct {
	srv    *Server
	server *http.Server
	conns  chan net.Conn
	ended  chan struct{}
	once   sync.Once
}

func newHTTPServer(s *Server) *httpServer {
	h := &httpServer{srv: s, conns: make(chan net.Conn, 128), ended: make(chan struct{})}
	mux := http.NewServeMux()
	route(mux, http.MethodPost, "/v1/guests", h.guests)
	route(mux, http.MethodGet, "/v1/rooms/{room}/entries", h.entries)
	route(mux, http.MethodPost, "/v1/rooms/{room}/messages", h.messages)
	mux.HandleFunc(wire.Path, h.webSocket)
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, contracts.NewError(contracts.CodeNotFound, "there is nothing here"))
	})
	if s.deps.Page != nil {
		mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				wrongMethod(w, "GET, HEAD")
				return
			}
			s.deps.Page.ServeHTTP(w, r)
		})
	}
	h.server = &http.Server{
		Handler:           secure(mux),
		ConnContext:       withTold,
		ReadHeaderTimeout: s.cfg.HeadTime,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    wire.MaxHead,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	return h
}

// route registers what serves a path with one method; with others it is 405.
func route(mux *http.ServeMux, method, path string, serve http.HandlerFunc) {
	mux.HandleFunc(method+" "+path, serve)
	mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { wrongMethod(w, method) })
}

func wrongMethod(w http.ResponseWriter, allowed string) {
	w.Header().Set("Allow", allowed)
	writeStatus(w, http.StatusMethodNotAllowed, contracts.NewError(contracts.CodeBadRequest, "here only "+allowed))
}

func (h *httpServer) start(wg *sync.WaitGroup) { wg.Go(func() { _ = h.server.Serve(h) }) }

// take gives a connection to the HTTP server, or closes it if too many wait.
func (h *httpServer) take(nc net.Conn) {
	select {
	case <-h.ended:
		_ = nc.Close()
	case h.conns <- nc:
	default:
		_ = nc.Close()
	}
}

func (h *httpServer) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	_ = h.server.Shutdown(ctx)
	_ = h.server.Close()
	for {
		select {
		case nc := <-h.conns:
			_ = nc.Close()
		default:
			return
		}
	}
}

// Accept makes the httpServer a net.Listener for the connections it is given.
func (h *httpServer) Accept() (net.Conn, error) {
	select {
	case <-h.ended:
		return nil, net.ErrClosed
	case nc := <-h.conns:
		return nc, nil
	}
}

// Close ends Accept.
func (h *httpServer) Close() error {
	h.once.Do(func() { close(h.ended) })
	return nil
}

// Addr is where the connections were accepted.
func (h *httpServer) Addr() net.Addr {
	if h.srv.listener != nil {
		return h.srv.listener.Addr()
	}
	return &net.TCPAddr{}
}

// secure sets the headers that every answer has.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		header.Set("X-Content-Type-Options", "nosniff")
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("Cross-Origin-Opener-Policy", "same-origin")
		header.Set("Cross-Origin-Resource-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

// webSocket serves an upgrade on a connection that served HTTP before, as some proxies send it.
func (h *httpServer) webSocket(w http.ResponseWriter, r *http.Request) {
	req := &wire.Request{Method: r.Method, Target: r.RequestURI, Path: r.URL.Path, Query: r.URL.RawQuery, Host: r.Host, Proto: r.Proto}
	for name, values := range r.Header {
		for _, v := range values {
			req.Headers = append(req.Headers, wire.Header{Name: name, Value: v})
		}
	}
	next := h.srv.nextShare()
	var from *address
	bad := req.CheckUpgrade(h.srv.cfg.Origins)
	switch {
	case bad != nil:
	case r.ContentLength != 0:
		bad = &wire.HTTPError{Status: http.StatusBadRequest, Message: "the request for a WebSocket has no body"}
	default:
		from, bad = next.admit(h.client(r))
	}
	if bad != nil {
		h.srv.metrics.refused.WithLabelValues(strconv.Itoa(bad.Status)).Inc()
		for line := range strings.SplitSeq(bad.Header, "\r\n") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				w.Header().Set(name, value)
			}
		}
		http.Error(w, bad.Message, bad.Status)
		return
	}
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		next.admission.release(from)
		http.Error(w, "no WebSocket on this connection", http.StatusInternalServerError)
		return
	}
	nc, buf, err := hijacker.Hijack()
	if err != nil {
		next.admission.release(from)
		return
	}
	_ = nc.SetDeadline(time.Time{})
	behind := make([]byte, buf.Reader.Buffered())
	_, _ = io.ReadFull(buf.Reader, behind)
	if r, ok := nc.(*replayed); ok {
		nc, behind = r.Conn, append(behind, r.first...)
	}
	next.takeSocket(nc, &handoff{switching: wire.AppendSwitching(nil, req), behind: behind, from: from})
}

// toldKey is where a request's context has the address that a PROXY header named.
type toldKey struct{}

func withTold(ctx context.Context, nc net.Conn) context.Context {
	if r, ok := nc.(*replayed); ok && r.told.IsValid() {
		return context.WithValue(ctx, toldKey{}, r.told)
	}
	return ctx
}

// client is the address that a request came from.
func (h *httpServer) client(r *http.Request) netip.Addr {
	l := &h.srv.cfg.Limits
	if l.PerIP == 0 {
		return netip.Addr{}
	}
	peer, _ := parseAddr(r.RemoteAddr)
	told, _ := r.Context().Value(toldKey{}).(netip.Addr)
	return l.clientIP(peer, told, r.Header.Values("X-Forwarded-For"))
}

// takeSocket takes a socket whose handshake is done.
func (s *Server) takeSocket(nc net.Conn, h *handoff) {
	if s.cfg.Portable {
		s.newPort(nc, h)
		return
	}
	defer func() { _ = nc.Close() }()
	fd, err := s.adoptSocket(nc)
	if err != nil {
		s.admission.release(h.from)
		return
	}
	s.deal(nil, fd, h)
}

func (h *httpServer) guests(w http.ResponseWriter, r *http.Request) {
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	h.ask(w, r, http.StatusOK, contracts.OpGuest, "", body)
}

func (h *httpServer) messages(w http.ResponseWriter, r *http.Request) {
	room, bad := pathRoom(r)
	if bad != nil {
		writeError(w, bad)
		return
	}
	body, ok := readBody(w, r)
	if !ok {
		return
	}
	h.ask(w, r, http.StatusCreated, contracts.OpSend, room, body)
}

func (h *httpServer) entries(w http.ResponseWriter, r *http.Request) {
	room, bad := pathRoom(r)
	if bad != nil {
		writeError(w, bad)
		return
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		writeError(w, contracts.BadField("query", "the query cannot be read"))
		return
	}
	body := []byte(`{"op":"history"`)
	for name, values := range query {
		switch name {
		case "before", "after", "limit":
		default:
			continue
		}
		n, err := strconv.ParseUint(values[0], 10, 64)
		if err != nil || n > contracts.MaxInt || len(values) > 1 {
			writeError(w, contracts.BadField(name, name+" must be one integer from 0 to 2^53-1"))
			return
		}
		body = append(body, `,"`+name+`":`...)
		body = strconv.AppendUint(body, n, 10)
	}
	h.ask(w, r, http.StatusOK, contracts.OpHistory, room, append(body, '}'))
}

// ask asks a worker for a request of the API and writes its answer.
func (h *httpServer) ask(w http.ResponseWriter, r *http.Request, status int, op contracts.Op, room contracts.RoomID, body []byte) {
	token, bad := bearer(r)
	if bad == nil && token == "" && op != contracts.OpGuest {
		bad = contracts.NewError(contracts.CodeUnauthorized, "Authorization: Bearer and a token is needed")
	}
	if bad != nil {
		writeError(w, bad)
		return
	}
	type outcome struct {
		a   *contracts.Answer
		bad *contracts.Error
	}
	answered := make(chan outcome, 1)
	s := h.srv
	s.asker.ask(question{
		op:       op,
		subject:  s.subject(op, room),
		deadline: time.Now().Add(s.cfg.AskTime),
		body: func(dst []byte, left time.Duration) []byte {
			cmd := s.command(dst, op, 0, left, nil, room)
			if token != "" {
				cmd = append(cmd, `,"token":`...)
				cmd = contracts.AppendString(cmd, token)
			}
			cmd = append(cmd, `,"body":`...)
			cmd = append(cmd, body...)
			return append(cmd, '}')
		},
		done: func(a *contracts.Answer, bad *contracts.Error) { answered <- outcome{a, bad} },
	})
	select {
	case <-r.Context().Done():
	case o := <-answered:
		if o.bad == nil && len(o.a.OK) == 0 {
			o.bad = errUnreadable
		}
		if o.bad != nil {
			writeError(w, o.bad)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		_, _ = w.Write(o.a.OK)
	}
}

func bearer(r *http.Request) (string, *contracts.Error) {
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return "", nil
	}
	scheme, token, ok := strings.Cut(values[0], " ")
	if len(values) > 1 || !ok || !strings.EqualFold(scheme, "Bearer") {
		return "", contracts.NewError(contracts.CodeUnauthorized, "Authorization: Bearer and a token is needed")
	}
	return strings.TrimSpace(token), nil
}

func pathRoom(r *http.Request) (contracts.RoomID, *contracts.Error) {
	room, err := contracts.ParseRoomID(r.PathValue("room"))
	if err != nil {
		return "", contracts.AsError(err)
	}
	return room, nil
}

// readBody reads a JSON object; where there is none it answers itself.
func readBody(w http.ResponseWriter, r *http.Request) (body []byte, ok bool) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		writeStatus(w, http.StatusUnsupportedMediaType, contracts.BadField("content-type", "Content-Type must be application/json"))
		return nil, false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		err = contracts.NewError(contracts.CodeTooLarge, "the body is larger than 64 KiB")
	case err != nil:
		err = contracts.BadField("body", "the body did not arrive")
	default:
		_, err = contracts.ParseObject(body)
	}
	if err != nil {
		writeError(w, contracts.AsError(err))
		return nil, false
	}
	return body, true
}

func writeError(w http.ResponseWriter, e *contracts.Error) { writeStatus(w, e.Code.HTTPStatus(), e) }

func writeStatus(w http.ResponseWriter, status int, e *contracts.Error) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.FormatInt(max(1, (e.RetryAfterMS+999)/1000), 10))
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]*contracts.Error{"error": e})
}
