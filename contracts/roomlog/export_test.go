package roomlog

// ForgetKeys forgets the keys below an offset at once, whatever their age and whether they are stored.
func (s *Sequencer) ForgetKeys(below int64) { s.forgetKeys(below) }

// ForgetRooms forgets every idle room whose last entry is below an offset, however few are held.
func (s *Sequencer) ForgetRooms(below int64) {
	limit := s.limits.Rooms
	s.limits.Rooms = 0
	s.forgetRooms(below)
	s.limits.Rooms = limit
}

// KeepReadAhead lets what was read ahead count across the forgettings that forget does.
func (s *Sequencer) KeepReadAhead(forget func()) {
	generation := s.generation
	forget()
	s.generation = generation
}

// SetKeyTime sets K.
func (s *Sequencer) SetKeyTime(k int64) { s.keyTime = k }
