package workers

import (
	"context"

	"github.com/parley-chat/parley/contracts"
)

// leave takes the person off the room's roster; with quit the membership ends as well, and with it the listening of all
// the person's connections.
func (w *Worker) leave(ctx context.Context, r *request) (contracts.Answer, error) {
	body, err := r.body()
	if err != nil {
		return contracts.Answer{}, err
	}
	quit, _, err := body.Bool("quit")
	if err != nil {
		return contracts.Answer{}, err
	}
	if quit {
		if err := w.members.quit(ctx, r.Room, r.user.ID); err != nil {
			w.log.Warn("membership could not be ended", "room", r.Room, "user", r.user.ID, "err", err)
			return contracts.Answer{}, errUnavailable
		}
	}
	r.after = func(ctx context.Context) {
		if quit {
			w.publish(ctx, event{
				kind: contracts.EnvelopeLeft, room: r.Room, user: r.user.ID, except: contracts.Conn{Node: r.Node, ID: r.Conn},
				body: struct {
					Event  contracts.Event  `json:"event"`
					Room   contracts.RoomID `json:"room"`
					Reason string           `json:"reason"`
				}{contracts.EventLeft, r.Room, "left"},
			})
		}
		w.depart(ctx, r.Node, []contracts.Presence{{Room: r.Room, User: r.user}})
	}
	return empty(), nil
}
