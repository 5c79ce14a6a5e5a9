package workers

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/parley-chat/parley/bus/rpc"
	"github.com/parley-chat/parley/contracts"
)

// maxLineBytes bounds the commands that wait in a line; usual ones have a few hundred bytes.
const maxLineBytes = 64 << 20

// line is where requests other than sends wait for their turn: so many are worked on at once, the others follow in the
// order in which they came; one whose turn comes after half of its time is refused then (see parse). A storm of joins is
// worked off as fast as the processors can, instead of being refused and coming again. Nothing is read of a request
// before its turn, so that whoever hands it over can go on: the broker's client drops what is not taken from it.
type line struct {
	most, mostWaiting int
	serve             func(arrival)

	mu      sync.Mutex
	working int       // guarded by mu
	waiting []arrival // guarded by mu; from first on
	first   int       // guarded by mu
	bytes   int       // guarded by mu; of the commands that wait
}

// arrival is a request as it came.
type arrival struct {
	in rpc.Request
	op contracts.Op // of the subject
	at time.Time
}

// patience is how many may wait, and how many bytes, in parts of four, before one of this kind is refused: what can be done
// without goes first.
func patience(op contracts.Op) int {
	switch op {
	case contracts.OpTyping, contracts.OpPresence:
		return 1
	case contracts.OpHistory, contracts.OpRooms, contracts.OpStatus:
		return 2
	case contracts.OpConnect, contracts.OpGuest:
		return 3
	}
	return 4
}

// add has a served, now or in its turn, or reports that too many wait.
func (l *line) add(a arrival) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	waiting := len(l.waiting) - l.first
	switch {
	case l.working < l.most: // then nobody waits
		l.working++
		go l.work(a)
	case waiting >= l.mostWaiting*patience(a.op)/4 || l.bytes+len(a.in.Body) > maxLineBytes*patience(a.op)/4:
		return false
	default:
		a.in.Body = bytes.Clone(a.in.Body) // it would keep the memory of those that came with it
		l.waiting = append(l.waiting, a)
		l.bytes += len(a.in.Body)
	}
	return true
}

// work serves a and those that waited behind it.
func (l *line) work(a arrival) {
	for ok := true; ok; a, ok = l.next() {
		l.serve(a)
	}
}

func (l *line) next() (a arrival, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == len(l.waiting) {
		l.waiting, l.first = nil, 0
		l.working--
		return arrival{}, false
	}
	a = l.waiting[l.first]
	l.waiting[l.first] = arrival{}
	l.bytes -= len(a.in.Body)
	if l.first++; l.first >= 1024 && 2*l.first >= len(l.waiting) {
		l.waiting, l.first = slices.Delete(l.waiting, 0, l.first), 0 // it keeps no hold of what it moves
	}
	return a, true
}

// count is how many are worked on and how many wait.
func (l *line) count() (working, waiting int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.working, len(l.waiting) - l.first
}
