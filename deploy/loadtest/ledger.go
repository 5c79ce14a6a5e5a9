package loadtest

// span is a run of seqs, both ends included.
type span struct{ from, to uint64 }

func (s span) size() uint64 { return s.to - s.from + 1 }

// maxHoles bounds a ledger's memory. A room with more of them has failed anyway: from there on holes are joined and not
// split, so that too much may be called missing and never too little.
const maxHoles = 64

// ledger is one connection's account of one room: it has every entry above base and up to pos except those in holes.
// Its size does not grow with the number of entries.
type ledger struct {
	pos   uint64
	holes []span // ascending, disjoint; nil as long as nothing is missing
}

// verdict is what one entry turned out to be.
type verdict uint8

const (
	inOrder verdict = iota
	jumped          // entries before it are missing so far
	late            // it fills a hole: delivered out of order
	doubled         // it was here before
)

// start begins at a position: what came before is not owed.
func (l *ledger) start(pos uint64) { l.pos, l.holes = pos, nil }

// take enters an entry.
func (l *ledger) take(seq uint64) verdict {
	switch {
	case seq == l.pos+1:
		l.pos = seq
		return inOrder
	case seq > l.pos:
		l.open(span{l.pos + 1, seq - 1})
		l.pos = seq
		return jumped
	case l.fill(seq):
		return late
	}
	return doubled
}

// upTo says that the room has reached head: what is not here until then is missing.
func (l *ledger) upTo(head uint64) {
	if head > l.pos {
		l.open(span{l.pos + 1, head})
		l.pos = head
	}
}

func (l *ledger) open(s span) {
	if n := len(l.holes); n > 0 && (n == maxHoles || l.holes[n-1].to+1 == s.from) {
		l.holes[n-1].to = s.to
		return
	}
	l.holes = append(l.holes, s)
}

// fill closes the hole at seq, if there is one.
func (l *ledger) fill(seq uint64) bool {
	for i := range l.holes {
		h := &l.holes[i]
		if seq < h.from || seq > h.to {
			continue
		}
		switch {
		case h.from == h.to:
			l.holes = append(l.holes[:i], l.holes[i+1:]...)
			if len(l.holes) == 0 {
				l.holes = nil
			}
		case seq == h.from:
			h.from++
		case seq == h.to:
			h.to--
		case len(l.holes) < maxHoles:
			tail := span{seq + 1, h.to}
			h.to = seq - 1
			l.holes = append(l.holes, span{})
			copy(l.holes[i+2:], l.holes[i+1:])
			l.holes[i+1] = tail
		}
		return true
	}
	return false
}

// missing is the number of entries in the holes.
func (l *ledger) missing() (n uint64) {
	for _, h := range l.holes {
		n += h.size()
	}
	return n
}

// contiguous is the position up to which nothing is missing: from there a resume asks.
func (l *ledger) contiguous() uint64 {
	if len(l.holes) > 0 {
		return l.holes[0].from - 1
	}
	return l.pos
}
