package workers

import (
	"context"

	"github.com/parley-chat/parley/contracts"
)

// typing passes on that somebody types, to all but the connection it came from.
func (w *Worker) typing(_ context.Context, r *request) (contracts.Answer, error) {
	body, err := r.body()
	if err != nil {
		return contracts.Answer{}, err
	}
	on, has, err := body.Bool("on")
	if err != nil {
		return contracts.Answer{}, err
	}
	if !has {
		return contracts.Answer{}, contracts.BadField("on", "on must be true or false")
	}
	r.after = func(ctx context.Context) {
		w.publish(ctx, event{
			room:   r.Room,
			except: contracts.Conn{Node: r.Node, ID: r.Conn},
			body: struct {
				Event string           `json:"event"`
				Room  contracts.RoomID `json:"room"`
				User  contracts.Person `json:"user"`
				On    bool             `json:"on"`
			}{"typing", r.Room, r.user, on},
		})
	}
	return empty(), nil
}
