package workers

import (
	"context"
	"fmt"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// memberGrace is for how long a join waits for the membership to be written, so that who then asks for his rooms finds
// this one. A store that is away holds up no join for longer.
const memberGrace = 100 * time.Millisecond

// joinReply is what a join found out of the log's side.
type joinReply struct {
	state   contracts.JoinState
	epoch   contracts.Epoch
	head    contracts.Seq // of the room
	entries []contracts.NumberedJSON
}

// join reads what a client needs to listen to a room from now on: the latest entries, or with since those behind it.
// limit is for the former only.
func (w *Worker) join(ctx context.Context, r *request) (contracts.Answer, error) {
	body, err := r.body()
	if err != nil {
		return contracts.Answer{}, err
	}
	since, err := parseSince(body)
	if err != nil {
		return contracts.Answer{}, err
	}
	limit, err := w.parseLimit(body, w.cfg.Limits.Page)
	if err != nil {
		return contracts.Answer{}, err
	}
	written := w.members.note(r.Room, r.user)
	var j joinReply
	err = insist(ctx, func() error {
		var err error
		j, err = w.readJoin(ctx, r, since, limit)
		return err
	})
	if err != nil {
		return contracts.Answer{}, err
	}
	grace := time.NewTimer(memberGrace)
	defer grace.Stop()
	select {
	case <-written:
	case <-grace.C:
	case <-ctx.Done():
	}
	online := w.enter(ctx, r)
	position := j.head
	if j.state == contracts.JoinMore {
		position = j.entries[len(j.entries)-1].Seq
	}
	return contracts.Answer{
		OK:     joinOK(&contracts.JoinOK{Room: r.Room, State: j.state, Epoch: j.epoch, Head: j.head, First: 1, Online: online}, j.entries),
		Joined: &contracts.Joined{State: j.state, Epoch: j.epoch, Head: position},
	}, nil
}

// parseSince reads the position to resume from; nil where there is none.
func parseSince(body contracts.Object) (*contracts.Since, error) {
	o, has, err := body.Object("since")
	if err != nil || !has {
		return nil, err
	}
	seq, hasSeq, err := o.Int("seq")
	if err != nil {
		return nil, err
	}
	if !hasSeq {
		return nil, contracts.BadField("since", "since needs a seq")
	}
	epoch, hasEpoch, err := o.Int("epoch")
	if err != nil {
		return nil, err
	}
	if !hasEpoch && seq != 0 {
		return nil, contracts.BadField("since", "since needs an epoch")
	}
	if epoch > 1<<32-1 {
		epoch = 0 // no room is ever in it, like in 0
	}
	return &contracts.Since{Epoch: contracts.Epoch(epoch), Seq: contracts.Seq(seq)}, nil
}

// parseLimit reads how many entries are wanted, at most MaxPage.
func (w *Worker) parseLimit(body contracts.Object, absent int) (int, error) {
	n, has, err := body.Int("limit")
	if err != nil {
		return 0, err
	}
	if !has {
		return absent, nil
	}
	return int(min(n, uint64(w.cfg.Limits.MaxPage))), nil
}

// readJoin tries once.
func (w *Worker) readJoin(ctx context.Context, r *request, since *contracts.Since, limit int) (joinReply, error) {
	h, err := w.heads.of(ctx, w.partition(r.Room), r.Room)
	if err != nil {
		return joinReply{}, err
	}
	j := joinReply{state: contracts.JoinComplete, epoch: h.epoch, head: h.Seq}
	// The edge may have passed on more than the dispatcher that answered knows of (one that has just taken over, say).
	if p := r.Passed; p != nil && p.Epoch == h.epoch {
		j.head = max(j.head, p.Seq)
	}
	s := span{room: r.Room, epoch: h.epoch, to: j.head}
	if since != nil {
		foreign := since.Seq != 0 && since.Epoch != h.epoch
		switch {
		case !foreign && since.Seq > j.head && !h.certain:
			return joinReply{}, fmt.Errorf("join room %s: the dispatcher is behind: %w", r.Room, errAgain)
		case foreign || since.Seq > j.head || uint64(j.head-since.Seq) > uint64(w.cfg.Limits.ResumeEntries):
			j.state = contracts.JoinReset
		default:
			s.from = since.Seq + 1
			if j.entries, err = w.readOldest(ctx, s, h.Floor, w.replyBytes); err != nil {
				return joinReply{}, err
			}
			if s.from+contracts.Seq(len(j.entries)) <= j.head {
				j.state = contracts.JoinMore
			}
			return j, nil
		}
		limit = w.cfg.Limits.Page
	}
	if limit == 0 {
		return j, nil
	}
	s.from = below(j.head, limit)
	j.entries, err = w.readNewest(ctx, s, h.Floor, w.replyBytes)
	return j, err
}

// below returns the first of the n seqs that end at to.
func below(to contracts.Seq, n int) contracts.Seq {
	if uint64(to) < uint64(n) {
		return 1
	}
	return to - contracts.Seq(n) + 1
}
