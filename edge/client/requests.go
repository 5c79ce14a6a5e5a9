package client

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/parley-chat/parley/contracts"
)

// Request makes any other request, once, as soon as there is a connection, and returns the ok of its reply. fields are those
// beside id and op. The error is a *contracts.Error where the server refused, and ErrDisconnected where the connection broke before
// the reply.
func (c *Client) Request(ctx context.Context, op contracts.Op, fields map[string]any) (json.RawMessage, error) {
	body, err := contracts.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", op, err)
	}
	if body = body[1 : len(body)-1]; fields == nil {
		body = nil
	}
	type result struct {
		ok  json.RawMessage
		err error
	}
	reply := make(chan result, 1)
	for {
		c.mu.Lock()
		if err := c.gone(); err != nil {
			c.mu.Unlock()
			return nil, err
		}
		s, ready := c.usable(), c.ready
		if s != nil {
			s.ask(op, body, c.cfg.ReplyTimeout, func(ok []byte, err error) { reply <- result{ok: append([]byte(nil), ok...), err: err} })
		}
		c.mu.Unlock()
		if s != nil {
			break
		}
		select {
		case <-ready:
		case <-c.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", op, ctx.Err())
		}
	}
	select {
	case res := <-reply:
		if res.err != nil {
			return nil, fmt.Errorf("%s: %w", op, res.err)
		}
		return res.ok, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%s: %w", op, ctx.Err())
	}
}
