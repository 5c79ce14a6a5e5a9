package loadtest

import "testing"

// TestActiveRooms: only the first rooms are spoken in, by as many as speak in each.
func TestActiveRooms(t *testing.T) {
	for _, tt := range []struct{ senders, active, want int }{
		{0, 0, 1000}, {3, 0, 30}, {0, 2, 200}, {3, 2, 6}, {0, 50, 1000},
	} {
		p := &plan{Rooms: 10, Conns: 1000, Senders: tt.senders, Active: tt.active}
		if got := p.allSenders(); got != tt.want {
			t.Errorf("%d senders per room in %d rooms: %d send, want %d", tt.senders, tt.active, got, tt.want)
		}
		for i := range p.Conns {
			if p.sends(i) && tt.active != 0 && p.room(i) >= tt.active {
				t.Errorf("connection %d speaks in room %d of %d active ones", i, p.room(i), tt.active)
			}
		}
	}
}
