package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/ops"
	"github.com/parley-chat/parley/edge"
)

// handing is how an edge hands over to the next one, and takes over from the one before.
type handing struct {
	Handover string `name:"handover" env:"PARLEY_HANDOVER" default:"auto" help:"Unix socket at which a new process may take over all connections: a path, off, or auto: in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/parley or a directory of one's own under the temporary one, named after --listen."`
	TakeOver string `name:"take-over" placeholder:"PATH" help:"Take over from the running edge that offers itself at this path, or at the one that auto stands for, without a connection noticing; then it exits."`
}

// handover is an edge's part in it.
type handover struct {
	*handing
	natsURL string
	opsAddr string
	ops     net.Listener // that was handed over
}

// call asks the running edge, if one is to be taken over from, and completes cfg with what it says.
func (h *handover) call(ctx context.Context, cfg *edge.Config, node string) error {
	if h.TakeOver == "" {
		return nil
	}
	path, err := socketPath(h.predecessor(), cfg.Listen)
	if err != nil {
		return fmt.Errorf("--take-over: %w", err)
	}
	p, err := edge.CallPredecessor(ctx, path, *cfg)
	if errors.Is(err, edge.ErrNoPredecessor) {
		return fmt.Errorf("%w (start without --take-over, or name its --handover socket)", err)
	}
	if err != nil {
		return err
	}
	if node != "" && contracts.NodeID(node) != p.Node() {
		p.Close()
		return fmt.Errorf("--node %s: the running edge is %s, and whoever takes over stays that", node, p.Node())
	}
	cfg.Predecessor, cfg.Node = p, p.Node()
	if ln := p.Ops(); ln != nil {
		if samePort(ln.Addr(), h.opsAddr) {
			h.ops = ln
		} else {
			_ = ln.Close()
		}
	}
	return nil
}

// predecessor is where the running edge offers itself: with auto at the path of this edge's own offer, if it has one.
func (h *handing) predecessor() string {
	if h.TakeOver == "auto" && h.Handover != "off" && h.Handover != "" {
		return h.Handover
	}
	return h.TakeOver
}

// begin takes over, if that is wanted.
func (h *handover) begin(ctx context.Context, e *edge.Server, cfg *edge.Config, log *slog.Logger) error {
	p := cfg.Predecessor
	if p == nil {
		return nil
	}
	log.Info("taking over", "node", string(cfg.Node), "pid", p.PID(), "version", p.Version(), "connections", p.Connections())
	r, err := e.TakeOver(ctx)
	if errors.Is(err, edge.ErrNoNATS) {
		return fmt.Errorf("%w: %s", err, rpc.Config{URL: h.natsURL}.Server())
	}
	if err != nil {
		return err
	}
	if r.Alone {
		log.Warn("the edge before died while it handed over; what it still had is lost", "connections", r.Connections)
	}
	log.Info("taken over", "addr", e.Addr(), "connections", r.Connections, "rooms", r.Rooms, "took", r.Took.String(), "pause_p50", r.Pause50.String(), "pause_p999", r.Pause999.String(), "pause_max", r.PauseMax.String())
	return nil
}

// offer offers the next hand-over, with o's open port. over is closed once somebody has taken over from here.
func (h *handover) offer(e *edge.Server, cfg *edge.Config, o *ops.Server, log *slog.Logger) (over <-chan struct{}, err error) {
	if h.Handover == "off" || h.Handover == "auto" && cfg.Portable {
		return nil, nil
	}
	path, err := socketPath(h.Handover, cfg.Listen)
	if err == nil {
		err = e.Offer(edge.HandoverConfig{Path: path, Ops: o.Listener(), Release: func() {
			sctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = o.Stop(sctx)
		}})
	}
	switch {
	case err == nil:
		log.Info("a new edge may take over", "socket", path)
		return e.HandedOver(), nil
	case h.Handover == "auto":
		log.Warn("no new edge can take over", "err", err)
		return nil, nil
	}
	return nil, err
}

// socketPath is what a path or auto stands for. auto makes the directory.
func socketPath(path, listen string) (string, error) {
	if path != "auto" {
		return path, nil
	}
	if _, port, err := net.SplitHostPort(listen); err != nil || port == "0" {
		return "", fmt.Errorf("a free port cannot name the socket: name it with --handover PATH")
	}
	dir, _, _ := strings.Cut(os.Getenv("RUNTIME_DIRECTORY"), ":")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "parley-"+strconv.Itoa(os.Geteuid()))
		if xdg := os.Getenv("XDG_RUNTIME_DIR"); xdg != "" {
			dir = filepath.Join(xdg, "parley")
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", fmt.Errorf("make the directory of the socket: %w", err)
		}
		// Others may write to the temporary directory: what they put there is not ours.
		if err := ownDirectory(dir); err != nil {
			return "", err
		}
	}
	name := strings.Map(func(r rune) rune {
		if r == ':' || r == '/' || r == '[' || r == ']' {
			return '_'
		}
		return r
	}, listen)
	return filepath.Join(dir, "edge-"+name+".sock"), nil
}

// samePort reports whether an open listener is what an address asks for.
func samePort(open net.Addr, want string) bool {
	tcp, ok := open.(*net.TCPAddr)
	_, port, err := net.SplitHostPort(want)
	return ok && err == nil && port == strconv.Itoa(tcp.Port)
}
