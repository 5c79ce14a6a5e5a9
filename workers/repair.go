package workers

import (
	"context"

	"github.com/parley-chat/parley/contracts"
)

// repair reads entries that an edge missed and found neither in the cache nor at the dispatcher: as many as fit.
func (w *Worker) repair(ctx context.Context, r *request) (contracts.Answer, error) {
	if r.Range == nil || r.Range.From == 0 || r.Range.To < r.Range.From || r.Range.To > contracts.MaxInt {
		return contracts.Answer{}, contracts.BadField("range", "the command names no range")
	}
	s := span{room: r.Room, epoch: r.Range.Epoch, from: r.Range.From, to: r.Range.To}
	s.to = min(s.to, s.from+contracts.Seq(w.cfg.Limits.ResumeEntries)-1)
	var entries []contracts.NumberedJSON
	err := insist(ctx, func() error {
		var err error
		entries, err = w.readOldest(ctx, s, 0, w.replyBytes*4/5) // each entry has its seq beside it here
		return err
	})
	if err != nil {
		return contracts.Answer{}, err
	}
	return contracts.Answer{OK: empty().OK, Entries: entries}, nil
}
