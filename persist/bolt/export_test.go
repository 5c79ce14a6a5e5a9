package bolt

import "time"

// Waiting is how many changes wait for a transaction.
func (s *Store) Waiting() int {
	s.queue.Lock()
	defer s.queue.Unlock()
	return len(s.queue.waiting)
}

// Transactions is how many changes of the file there were.
func (s *Store) Transactions() (n int, err error) {
	tx, err := s.db.Begin(false)
	if err != nil {
		return 0, err
	}
	n = int(tx.ID())
	return n, tx.Rollback()
}

// CommittedAt makes it look as if the last commit had ended then.
func (s *Store) CommittedAt(then time.Time) {
	s.turn.Lock()
	defer s.turn.Unlock()
	s.last = then
}
