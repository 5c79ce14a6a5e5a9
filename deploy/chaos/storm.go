package chaos

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/history"
)

// ScenarioEdgeKilled kills one of two edges, once, and measures how its clients come back: Config.Scenario.
const ScenarioEdgeKilled = "edge-killed"

const (
	stormMembers = 20 // of each room
	stormRooms   = 2  // of each user
	// stormLimit is how long the clients of a killed edge may take until all have resumed all their rooms.
	stormLimit = 30 * time.Second
	// stormReads is how many reads of the database may fall upon a resume.
	stormReads = 0.01
)

// Storm is what a killed edge led to.
type Storm struct {
	Connections int `json:"connections"`
	Affected    int `json:"affected"` // of the connections: those of the edge that was killed
	Resumed     int `json:"resumed"`  // of the affected: all their rooms, in time
	Resumes     int `json:"resumes"`  // joins with a position that were answered
	// HalfS and AllS are when half and all of the affected had resumed, in seconds from the kill.
	HalfS float64 `json:"half_s"`
	AllS  float64 `json:"all_s"`
	Reads int     `json:"database_reads"` // queries for entries by workers and dispatchers, counted on the wire
}

// stormRoomsOf spreads users over rooms of equal size, each user in several.
func stormRoomsOf(users int) [][]int {
	rooms := make([][]int, max(1, users*stormRooms/stormMembers))
	for i := range users {
		for k := range stormRooms {
			// The second of each user's rooms is shared with others than the first.
			n := (i + k*(1+i/len(rooms))) % len(rooms)
			if !slices.Contains(rooms[n], i) {
				rooms[n] = append(rooms[n], i)
			}
		}
	}
	return rooms
}

// queries counts what asks a MongoDB for entries in the bytes of a connection: a find (or an aggregate) on their collection,
// as BSON begins it: type 2, the command's name, the length of the collection's name, that name.
func queries(piece []byte) (n int) {
	collection := append([]byte{byte(len(contracts.CollectionEntries) + 1), 0, 0, 0}, contracts.CollectionEntries...)
	for _, command := range []string{"\x02find\x00", "\x02aggregate\x00"} {
		n += bytes.Count(piece, append([]byte(command), collection...))
	}
	return n
}

// storm lets the crowd talk, kills an edge and measures until its clients have resumed.
func (w *world) storm(ctx context.Context, report *Report) {
	var reads atomic.Int64
	for l, x := range w.links {
		if l.to == mongo && l.from != "persist-1" && l.from != "persist-2" {
			x.Trip(func(piece []byte) bool {
				reads.Add(int64(queries(piece)))
				return false
			})
		}
	}
	w.enter("talking before the kill")
	w.crowd.start(context.WithoutCancel(ctx), w.cfg.Seed)
	wait(ctx, w.cfg.Duration/2)

	const victim = "edge-1"
	var affected []*user
	before := make(map[*user]uint64)
	s := &Storm{Connections: len(w.crowd.users)}
	for _, u := range w.crowd.users {
		if u.Session().Server.Node == victim {
			affected = append(affected, u)
			before[u] = u.rec.connection()
		}
	}
	s.Affected = len(affected)
	readsBefore, resumesBefore := reads.Load(), w.tally.resumes.Load()
	over := w.expect(victim)
	w.begun("kill-edge", victim)
	w.conductor.Add(history.Event{
		Kind: history.Fault, At: history.SharedNow(), Fault: "kill " + victim, What: "kill-edge", Process: victim, Signals: anySignals,
	})
	killed := time.Now()
	if err := w.procs[victim].Kill(); err != nil {
		w.tally.odd(err.Error())
	}
	w.enter("resuming")
	back := make(map[*user]bool)
	for end := killed.Add(stormLimit); ; {
		for _, u := range affected {
			back[u] = back[u] || u.rec.resumed(before[u], u.rooms)
		}
		maps.DeleteFunc(back, func(_ *user, is bool) bool { return !is })
		took := time.Since(killed).Seconds()
		if s.HalfS == 0 && 2*len(back) >= len(affected) {
			s.HalfS = took
		}
		s.Resumed, s.AllS = len(back), took
		if len(back) == len(affected) || time.Now().After(end) || !wait(ctx, 50*time.Millisecond) {
			break
		}
	}
	s.Resumes, s.Reads = int(w.tally.resumes.Load()-resumesBefore), int(reads.Load()-readsBefore)
	if s.Affected == 0 {
		w.tally.odd("nobody was connected to the killed edge")
	}
	if s.Resumed < s.Affected {
		w.tally.odd(fmt.Sprintf("%d of %d clients of the killed edge had resumed after %.1f s", s.Resumed, s.Affected, s.AllS))
	}
	if float64(s.Reads) > stormReads*float64(s.Resumes) {
		w.tally.odd(fmt.Sprintf("%d reads of the database for %d resumes; at most 1 in 100 is wanted", s.Reads, s.Resumes))
	}
	report.Storm = s
	w.enter("talking after the kill")
	wait(ctx, w.cfg.Duration/2)
	startCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startWithin)
	defer cancel()
	if err := w.procs[victim].Start(startCtx); err != nil {
		w.tally.odd(err.Error())
	}
	w.conductor.Add(history.Event{Kind: history.Heal, At: history.SharedNow(), Fault: "kill " + victim})
	w.over(victim)
	over()
}

// connection is the number of the latest connection.
func (r *recorder) connection() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conn
}

// resumed reports whether all rooms were joined on a connection later than n.
func (r *recorder) resumed(n uint64, rooms []contracts.RoomID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, room := range rooms {
		if p := r.rooms[room]; p == nil || p.on <= n {
			return false
		}
	}
	return true
}
