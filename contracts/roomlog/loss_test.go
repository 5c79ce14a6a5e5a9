package roomlog_test

// The log loses records or is replaced, and a persister begins a new epoch.

// lose makes another log of the log: an empty one, one that ends earlier, or one that begins elsewhere. What comes then
// is written at offsets that were used before. Only what a checkpoint can show is lost: records below C.
func (w *world) lose() {
	c := w.checkpoint.c
	if !w.lossy || w.checkpoint.last == 0 || c <= w.start {
		return
	}
	switch w.rand.IntN(3) {
	case 0:
		w.log, w.start = nil, 0
	case 1:
		end := min(w.start+w.rand.Int64N(c-w.start), w.end())
		w.log = append([]record(nil), w.log[:end-w.start]...)
	default:
		start := w.rand.Int64N(c + 4)
		if start == c { // the same as trimmed up to there
			start = 0
		}
		if start > c {
			w.persisters = nil // none stores up to just there what it had read before: that looks like trimmed, too
		}
		w.log, w.start = nil, start
	}
	w.generation++
}

// identified compares the log with the checkpoint.
func (w *world) identified() bool {
	c := w.checkpoint
	if w.rule == hashNotChecked {
		return c.c >= w.start && c.c <= w.end()
	}
	return c.c >= w.start && c.c <= w.end() && (c.last == 0 || c.c-1 < w.start || w.log[c.c-1-w.start].id == c.last)
}

// raise begins a new epoch, or dies on the way. Nothing of earlier owners arrives after it: it has waited for that.
func (w *world) raise() {
	if w.rule != raisedAtOnce {
		w.persisters = nil
	}
	old := w.checkpoint
	next := checkpoint{epoch: old.epoch + 1, c: w.start, k: old.k}
	above := at(old.epoch, old.c)
	for room := range w.rows {
		rows := w.rows[room]
		for len(rows) > 0 && rows[len(rows)-1].place < 0 {
			rows = rows[:len(rows)-1]
		}
		w.rows[room] = rows
		for i := len(rows) - 1; i >= 0; i-- {
			switch r := rows[i]; {
			case r.place < 0 && w.rule != holesLeft:
				rows[i] = row{message: -1, seq: rows[i+1].seq - 1, place: rows[i+1].place, at: w.step}
			case r.place >= above && r.message >= 0 && w.rule != keyTimeAsItWas:
				next.k = max(next.k, w.messages[r.message].id.Key.Time())
			}
		}
	}
	switch w.rule {
	case checkpointKept:
		next.c = max(w.start, min(old.c, w.end()))
	case epochKept:
		next.epoch = old.epoch
	}
	if w.chance(20) {
		return
	}
	w.checkpoint = next
	w.refold()
}

// refold makes the fold of the new epoch: what is stored, and then what of the log is not.
func (w *world) refold() {
	w.past = append(w.past, w.fold)
	w.fold, w.folded = fold{}, w.generation
	for i := range w.messages {
		w.messages[i].first, w.messages[i].seq = -1, 0
	}
	for room, rows := range w.rows {
		for _, r := range rows {
			w.fold[room] = append(w.fold[room], entry{message: r.message, place: r.place})
			if r.place >= 0 && r.message >= 0 {
				m := &w.messages[r.message]
				m.first, m.seq = r.place, r.seq
			}
		}
	}
	for i, r := range w.log {
		if r.message >= 0 {
			w.number(r.message, w.start+int64(i))
		}
	}
}

func (w *world) foldOf(epoch int) *fold {
	if epoch <= len(w.past) {
		return &w.past[epoch-1]
	}
	return &w.fold
}

// sweep ends the readers that have noticed that they must.
func (w *world) sweep() {
	for _, p := range w.persisters {
		if p.out {
			w.persisters = without(w.persisters, p)
		}
	}
	for _, d := range w.dispatchers {
		if d.out {
			w.dispatchers = without(w.dispatchers, d)
		}
	}
}

// compare says what is wrong with the store and the members when all has come right.
func (w *world) compare() {
	for _, r := range w.log {
		if r.message >= 0 && w.messages[r.message].stored.place < 0 {
			w.fail("message %d of room %s is in the log and not in the store", r.message, roomNames[w.messages[r.message].room])
			return
		}
	}
	for room, fold := range w.fold {
		if len(w.rows[room]) != len(fold) {
			w.fail("room %s has %d rows, want %d", roomNames[room], len(w.rows[room]), len(fold))
			return
		}
		for i, e := range fold {
			if r := w.rows[room][i]; r.place < 0 || r.place != e.place || r.message != e.message {
				w.fail("row %d of room %s is message %d of %v, want %d of %v", i+1, roomNames[room], r.message, r.place.position(), e.message, e.place.position())
				return
			}
		}
		for i, m := range w.members {
			// Of a room in which nothing was said since, a member may not have heard that the epoch is another.
			quiet := len(fold) == 0 || fold[len(fold)-1].place.epoch() < w.checkpoint.epoch
			if m.epoch[room] == w.checkpoint.epoch && int(m.has[room]) != len(fold) || m.epoch[room] < w.checkpoint.epoch && !quiet {
				w.fail("member %d has %d entries of room %s in epoch %d, want %d in %d", i, m.has[room], roomNames[room], m.epoch[room], len(fold), w.checkpoint.epoch)
			}
		}
	}
}
