package workers

import (
	"context"
	"fmt"

	"github.com/parley-chat/parley/contracts"
)

// history reads a page of a room: the newest entries, those before a seq or those after one.
func (w *Worker) history(ctx context.Context, r *request) (contracts.Answer, error) {
	body, err := r.body()
	if err != nil {
		return contracts.Answer{}, err
	}
	before, hasBefore, err := body.Int("before")
	if err != nil {
		return contracts.Answer{}, err
	}
	after, hasAfter, err := body.Int("after")
	if err != nil {
		return contracts.Answer{}, err
	}
	if hasBefore && hasAfter {
		return contracts.Answer{}, contracts.BadField("after", "before and after exclude each other")
	}
	limit, err := w.parseLimit(body, w.cfg.Limits.Page)
	if err != nil {
		return contracts.Answer{}, err
	}
	if !hasBefore {
		before = contracts.MaxInt + 1
	}
	var page contracts.HistoryOK
	var entries []contracts.NumberedJSON
	err = insist(ctx, func() error {
		h, err := w.heads.of(ctx, w.partition(r.Room), r.Room)
		if err != nil {
			return err
		}
		// Who asks for what lies beyond the head has seen more than the dispatcher that answered knows of, which has just taken over.
		if beyond := hasBefore && before > uint64(h.Seq)+1 || hasAfter && after > uint64(h.Seq); beyond && !h.certain {
			return fmt.Errorf("read room %s: the dispatcher is behind: %w", r.Room, errAgain)
		}
		s := span{room: r.Room, epoch: h.epoch}
		var more bool
		if hasAfter {
			s.from, s.to = contracts.Seq(after)+1, min(h.Seq, contracts.Seq(after)+contracts.Seq(limit))
			if limit > 0 {
				entries, err = w.readOldest(ctx, s, h.Floor, w.replyBytes)
			}
			more = contracts.Seq(after)+contracts.Seq(len(entries)) < h.Seq
		} else {
			s.to = h.Seq
			if before <= uint64(h.Seq) {
				s.to = contracts.Seq(max(before, 1)) - 1
			}
			s.from = below(s.to, limit)
			if limit > 0 {
				entries, err = w.readNewest(ctx, s, h.Floor, w.replyBytes)
			}
			more = contracts.Seq(len(entries)) < s.to
		}
		page = contracts.HistoryOK{Epoch: h.epoch, Head: h.Seq, More: more}
		return err
	})
	if err != nil {
		return contracts.Answer{}, err
	}
	return contracts.Answer{OK: historyOK(&page, entries)}, nil
}
