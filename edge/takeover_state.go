package edge

import (
	"math"
	"net/netip"
	"time"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge/wire"
)

// connRecord is all there is to know about a connection that no request of is unanswered. Times are durations, because
// the clocks of two processes' loops differ.
type connRecord struct {
	ID       uint64            `json:"id"`
	Connects bool              `json:"connects,omitempty"` // a WebSocket; otherwise its HTTP head is not complete
	User     *contracts.Person `json:"user,omitempty"`     // nil: not connected yet
	Expires  int64             `json:"expires,omitempty"`
	From     string            `json:"from,omitempty"` // the address that it counts for
	Reminded bool              `json:"reminded,omitempty"`
	Pinged   bool              `json:"pinged,omitempty"`
	Frozen   int64             `json:"frozen"`             // Unix nanoseconds at which its input stopped
	HeardMS  int64             `json:"heard_ms,omitempty"` // since the last input
	BeganMS  int64             `json:"began_ms,omitempty"` // since the incomplete message began; 0: none has
	DueMS    int64             `json:"due_ms,omitempty"`   // until its timer

	Head    []byte            `json:"head,omitempty"`  // the HTTP head so far
	Input   []byte            `json:"input,omitempty"` // read, and not looked at
	Reader  *wire.ReaderState `json:"reader,omitempty"`
	Output  []byte            `json:"output,omitempty"` // not written; it may begin inside a frame
	Rooms   []memberRecord    `json:"rooms,omitempty"`
	Stopped []stoppedRecord   `json:"stopped,omitempty"`
	Storing []storingRecord   `json:"storing,omitempty"`
	Sent    *bucketsRecord    `json:"sent,omitempty"`
}

// memberRecord is a membership.
type memberRecord struct {
	Room      contracts.RoomID `json:"r"`
	Listening bool             `json:"l,omitempty"`
	Behind    bool             `json:"b,omitempty"` // what is missing from Next on is to be told as a gap
	Epoch     contracts.Epoch  `json:"e,omitempty"`
	Next      contracts.Seq    `json:"n,omitempty"`
}

// stoppedRecord says that the messages to a room are answered with an error until a key comes again.
type stoppedRecord struct {
	Room contracts.RoomID `json:"room"`
	Key  contracts.Key    `json:"key"`
	Err  *contracts.Error `json:"err"`
}

// storingRecord is a message whose sender waits for news of it.
type storingRecord struct {
	ID    uint64           `json:"id,omitempty"`
	Room  contracts.RoomID `json:"room"`
	Key   contracts.Key    `json:"key"`
	OK    []byte           `json:"ok"`
	Told  bool             `json:"told,omitempty"`
	DueMS int64            `json:"due_ms"`
	Was   uint64           `json:"was,omitempty"` // the connection's id when it was sent
}

// bucketsRecord is what was counted of the limits per second.
type bucketsRecord struct {
	AgoMS  int64  `json:"ago_ms,omitempty"`
	Bytes  uint32 `json:"bytes,omitempty"`
	Frames uint16 `json:"frames,omitempty"`
	Joins  uint16 `json:"joins,omitempty"`
	Over   uint16 `json:"over,omitempty"`
	Strain uint16 `json:"strain,omitempty"`
}

// sinceMS is the time from a tick to now, and tickOf is the way back. A loop that takes over is old enough for all of them.
func (l *loop) sinceMS(at uint32) int64 {
	return int64(l.ticks-min(at, l.ticks)) * tick.Milliseconds() // began is 1 in the first tick
}

func (l *loop) tickOf(agoMS int64) uint32 {
	ago := uint32(min(max(agoMS, 0)/tick.Milliseconds(), math.MaxUint32))
	return l.ticks - min(ago, l.ticks)
}

func (l *loop) untilMS(due uint32) int64 {
	return int64(max(due, l.ticks)-l.ticks) * tick.Milliseconds()
}

// record writes down a connection that is frozen.
func (c *conn) record() connRecord {
	l := c.loop
	r := connRecord{
		ID: c.id, Connects: c.state != stateHead, Expires: c.expires, Reminded: c.reminded, Pinged: c.pinged,
		HeardMS: l.sinceMS(c.heard), DueMS: l.untilMS(c.due),
	}
	if user := c.known(); user != nil {
		who := *user
		r.User = &who
	}
	if c.from != nil {
		r.From = c.from.ip.String()
	}
	if c.began != 0 {
		r.BeganMS = max(1, l.sinceMS(c.began))
	}
	if c.sent != (buckets{}) {
		s := &c.sent
		r.Sent = &bucketsRecord{AgoMS: l.sinceMS(s.at), Bytes: s.bytes, Frames: s.frames, Joins: s.joins, Over: s.over, Strain: s.strain}
	}
	for _, lc := range c.rooms {
		m := &lc.members[lc.find(c)]
		r.Rooms = append(r.Rooms, memberRecord{Room: lc.room.id, Listening: m.listening, Behind: m.behind, Epoch: m.epoch, Next: m.next})
	}
	b := c.busy
	if b == nil {
		return r
	}
	r.Head = append(r.Head, b.head...)
	r.Input = append(r.Input, b.stash...)
	if b.reader.Partial() {
		reader := b.reader.State()
		r.Reader = &reader
	}
	if b.out != nil {
		for i := range b.out.queue {
			r.Output = append(r.Output, b.out.queue[i].frames...)
		}
		r.Output = r.Output[b.out.off:]
	}
	for _, q := range b.sends {
		if q.stopped != nil {
			r.Stopped = append(r.Stopped, stoppedRecord{Room: q.room, Key: q.key, Err: q.stopped})
		}
	}
	for _, st := range b.storing {
		was := st.was
		if was == 0 {
			was = c.id
		}
		r.Storing = append(r.Storing, storingRecord{Was: was, ID: st.id, Room: st.room, Key: st.key, OK: st.ok, Told: st.told, DueMS: l.untilMS(st.due)})
	}
	return r
}

// size is about how much a record measures.
func (r *connRecord) size() int {
	n := 512 + len(r.Head) + len(r.Input) + len(r.Output) + 128*len(r.Rooms)
	if r.Reader != nil {
		n += len(r.Reader.Buffered)
	}
	return n
}

// valid reports whether a connection can go on from the record.
func (r *connRecord) valid() bool {
	if r.ID == 0 || r.User != nil && (!r.Connects || !contracts.ValidID(string(r.User.ID))) || r.User == nil && len(r.Rooms) > 0 {
		return false
	}
	if r.Reader != nil {
		if _, ok := wire.NewReader(*r.Reader); !ok {
			return false
		}
	}
	for _, m := range r.Rooms {
		if !contracts.ValidID(string(m.Room)) || m.Listening && m.Next == 0 {
			return false
		}
	}
	for _, s := range r.Stopped {
		if s.Err == nil || !contracts.ValidID(string(s.Room)) {
			return false
		}
	}
	for _, st := range r.Storing {
		if len(st.OK) == 0 || !contracts.ValidID(string(st.Room)) {
			return false
		}
	}
	return true
}

// restore makes a connection of a record and its descriptor. It owns both; fd is closed if that fails.
func (l *loop) restore(r *connRecord, fd int) {
	if l.held == 0 {
		l.turn() // nobody wound the clock meanwhile
	}
	s := l.srv
	c := &conn{loop: l, state: stateHead, expires: r.Expires, reminded: r.Reminded, pinged: r.Pinged, heard: l.tickOf(r.HeardMS)}
	l.seat(c)
	if r.BeganMS > 0 {
		c.began = max(1, l.tickOf(r.BeganMS))
	}
	if r.Reader != nil {
		c.work().reader, _ = wire.NewReader(*r.Reader)
	}
	if b := r.Sent; b != nil {
		c.sent = buckets{at: l.tickOf(b.AgoMS), bytes: b.Bytes, frames: b.Frames, joins: b.Joins, over: b.Over, strain: b.Strain}
	}
	if !r.Connects {
		c.handshaking = true
		s.admission.handshaking.Add(1)
	} else {
		c.state = stateOpen
		c.from = s.admission.recount(r.From)
		s.open.Add(1)
		s.opened.Add(1)
		s.metrics.connections.Inc()
	}
	if r.User != nil {
		c.state, c.user = stateReady, compact(*r.User)
		s.admission.join(c)
	}
	if len(r.Head) > 0 {
		c.work().head = r.Head
	}
	if len(r.Output) > 0 {
		c.stick()
		c.enqueue(piece{frames: r.Output}, 0)
	}
	for i := range r.Stopped {
		b := c.work()
		b.sends = append(b.sends, &sends{room: r.Stopped[i].Room, stopped: r.Stopped[i].Err, key: r.Stopped[i].Key})
	}
	for i := range r.Storing {
		c.storeOn(&r.Storing[i])
	}
	if err := l.adoptRaw(c, fd); err != nil {
		s.log.Warn("take a connection over", "err", err)
		c.forget()
		closeRaw(fd)
		return
	}
	if c.state == stateReady {
		c.nextTimer()
	} else {
		c.schedule(l.in(time.Duration(r.DueMS) * time.Millisecond))
	}
	for i := range r.Rooms {
		if c.state != stateReady {
			return
		}
		c.reenter(&r.Rooms[i])
	}
	if len(r.Input) > 0 && (c.state == stateReady || c.state == stateOpen) {
		c.readFrames(r.Input)
	}
	if c.state != stateGone {
		c.rest()
	}
}

// recount counts a connection that was admitted by a predecessor for its address, however many there are.
func (a *admission) recount(client string) *address {
	ip, err := netip.ParseAddr(client)
	if err != nil || a.cfg.Limits.PerIP == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	from := a.addresses[ip]
	if from == nil {
		from = &address{ip: ip}
		a.addresses[ip] = from
	}
	from.held++
	return from
}

// storeOn goes on waiting for a message to be stored.
func (c *conn) storeOn(r *storingRecord) {
	st := &storing{id: r.ID, room: r.Room, key: r.Key, ok: r.OK, told: r.Told, due: c.loop.in(time.Duration(r.DueMS) * time.Millisecond), was: r.Was}
	if st.was != 0 {
		c.loop.srv.former.Store(st.was, c.id) // the persister tells that one
	}
	c.work().storing = append(c.busy.storing, st)
	lane := contracts.LaneOf(st.room)
	lanes := &c.loop.srv.hub.lanes
	lanes.want(lane)
	lanes.heard(lane, func(error) {}) // unheard, a worker is asked
}
