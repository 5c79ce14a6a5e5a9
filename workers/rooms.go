package workers

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/parley-chat/parley/contracts"
)

// lobby is the room that always exists.
const lobby contracts.RoomID = "lobby"

// roomsPage is how many rooms a reply lists that asks for no number.
const roomsPage = 100

// rooms lists the rooms that the person is a member of; with all, the public ones as well.
func (w *Worker) rooms(ctx context.Context, r *request) (contracts.Answer, error) {
	body, err := r.body()
	if err != nil {
		return contracts.Answer{}, err
	}
	all, _, err := body.Bool("all")
	if err != nil {
		return contracts.Answer{}, err
	}
	after, hasAfter, err := body.String("after")
	if err != nil {
		return contracts.Answer{}, err
	}
	if hasAfter && after != "" && !contracts.ValidID(after) {
		return contracts.Answer{}, contracts.BadField("after", "after must be a room id")
	}
	limit, err := w.parseLimit(body, roomsPage)
	if err != nil {
		return contracts.Answer{}, err
	}
	list := contracts.RoomsOK{}
	err = insist(ctx, func() error {
		var err error
		list.Rooms, list.More, err = w.listRooms(ctx, r.user.ID, all, contracts.RoomID(after), limit)
		if err != nil {
			return err
		}
		return w.fillHeads(ctx, list.Rooms)
	})
	if err != nil {
		return contracts.Answer{}, err
	}
	return ok(list)
}

// listRooms returns up to limit rooms above after, and whether there are further ones.
func (w *Worker) listRooms(ctx context.Context, user contracts.UserID, all bool, after contracts.RoomID, limit int) ([]contracts.RoomOK, bool, error) {
	infos, err := w.deps.Store.RoomsOf(ctx, user, after, limit+1)
	if err != nil {
		return nil, false, err
	}
	rooms := make([]contracts.RoomOK, 0, len(infos))
	for _, info := range infos {
		rooms = append(rooms, roomOK(info, "member"))
	}
	if all {
		public, err := w.deps.Store.PublicRooms(ctx, after, limit+1)
		if err != nil {
			return nil, false, err
		}
		for _, info := range public {
			rooms = append(rooms, roomOK(info, ""))
		}
		if lobby > after {
			rooms = append(rooms, roomOK(contracts.RoomInfo{ID: lobby}, ""))
		}
		// Stable: of several rows for one room the one with the membership stays.
		slices.SortStableFunc(rooms, func(a, b contracts.RoomOK) int { return cmp.Compare(a.Room, b.Room) })
		rooms = slices.CompactFunc(rooms, func(a, b contracts.RoomOK) bool { return a.Room == b.Room })
	}
	more := len(rooms) > limit
	return rooms[:min(limit, len(rooms))], more, nil
}

func roomOK(info contracts.RoomInfo, role string) contracts.RoomOK {
	return contracts.RoomOK{
		Room: info.ID,
		Name: cmp.Or(info.Name, string(info.ID)),
		Kind: cmp.Or(info.Kind, "public"),
		Role: role,
	}
}

// fillHeads asks for the rooms' heads, with one question per partition.
func (w *Worker) fillHeads(ctx context.Context, rooms []contracts.RoomOK) error {
	asked := make(map[int32][]int)
	for i := range rooms {
		p := w.partition(rooms[i].Room)
		asked[p] = append(asked[p], i)
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error // guarded by mu
	)
	for partition, at := range asked {
		wg.Go(func() {
			q := contracts.Question{Heads: make([]contracts.RoomID, len(at))}
			for i, k := range at {
				q.Heads[i] = rooms[k].Room
			}
			reply, err := w.askNow(ctx, partition, q)
			if err != nil {
				mu.Lock()
				first = err
				mu.Unlock()
				return
			}
			for i, k := range at { // no two partitions share an element
				rooms[k].Epoch, rooms[k].Head = reply.Epoch, reply.Heads[i].Seq
			}
		})
	}
	wg.Wait()
	return first
}
