package sim

import (
	"context"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/contracts/roomlog"
	"github.com/parley-chat/parley/persist/store"
)

// Store is a store with a Mood. Losses are bulks that are stored in part, or whole, and answered with an error.
type Store struct {
	Mood
	real store.Store
	dice *Dice
}

// NewStore returns real with a Mood.
func NewStore(real store.Store, dice *Dice) *Store { return &Store{real: real, dice: dice} }

// For returns the store as p uses it. What is not overridden below is always well.
func (s *Store) For(p *Proc) *StoreClient { return &StoreClient{Store: s.real, db: s, proc: p} }

// StoreClient is a store.Store.
type StoreClient struct {
	store.Store
	db   *Store
	proc *Proc
}

// reach waits as a database does, and fails where it cannot be reached.
func (c *StoreClient) reach(ctx context.Context) error {
	if _, _, late := c.db.get(); late > 0 {
		sleep(c.db.dice.Time(late), ctx.Done())
	}
	if away, _, _ := c.db.get(); away || c.proc.Dead() {
		return ErrAway
	}
	return ctx.Err()
}

// Append implements store.Entries.
func (c *StoreClient) Append(ctx context.Context, entries []store.Entry, prev, next contracts.Checkpoint) error {
	if err := c.reach(ctx); err != nil {
		return err
	}
	dice := c.db.dice
	_, lose, _ := c.db.get()
	unsure := dice.Hit(lose)
	if unsure && prev.Epoch != 0 && dice.Hit(0.7) {
		// An unordered insert: any part of it may be what a broken one leaves. The checkpoint stays.
		var some []store.Entry
		for _, e := range entries {
			if dice.Hit(0.5) {
				some = append(some, e)
			}
		}
		if err := c.Store.Append(ctx, some, prev, prev); err != nil {
			return err
		}
		return ErrAway
	}
	if err := c.Store.Append(ctx, entries, prev, next); err != nil || !unsure {
		return err
	}
	return ErrAway
}

// Checkpoint implements store.Entries.
func (c *StoreClient) Checkpoint(ctx context.Context, partition int32) (contracts.Checkpoint, bool, error) {
	if err := c.reach(ctx); err != nil {
		return contracts.Checkpoint{}, false, err
	}
	return c.Store.Checkpoint(ctx, partition)
}

// Checkpoints implements store.Entries.
func (c *StoreClient) Checkpoints(ctx context.Context) ([]contracts.Checkpoint, error) {
	if err := c.reach(ctx); err != nil {
		return nil, err
	}
	return c.Store.Checkpoints(ctx)
}

// Lookup implements store.Entries.
func (c *StoreClient) Lookup(ctx context.Context, entries []roomlog.EntryQuery, heads []roomlog.HeadQuery) (fe, fh []roomlog.Found, err error) {
	if err := c.reach(ctx); err != nil {
		return nil, nil, err
	}
	return c.Store.Lookup(ctx, entries, heads)
}

// Page implements store.Entries.
func (c *StoreClient) Page(ctx context.Context, room contracts.RoomID, from, to contracts.Seq, limit int, newest bool) ([]contracts.Entry, error) {
	if err := c.reach(ctx); err != nil {
		return nil, err
	}
	return c.Store.Page(ctx, room, from, to, limit, newest)
}

// Bury implements store.Entries.
func (c *StoreClient) Bury(ctx context.Context, d store.DeadLetter) error {
	if err := c.reach(ctx); err != nil {
		return err
	}
	return c.Store.Bury(ctx, d)
}
