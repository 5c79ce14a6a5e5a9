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

// TestMeet: with Meet the members of a room are on so many addresses, evenly, and all addresses hold as many.
func TestMeet(t *testing.T) {
	for _, tt := range []struct{ meet, want int }{{0, 6}, {1, 1}, {2, 2}, {6, 6}} {
		p := &plan{Rooms: 12, Conns: 12 * 30, Meet: tt.meet, Targets: make([]target, 6)}
		rooms, all := make([]map[int]int, p.Rooms), map[int]int{}
		for i := range p.Conns {
			if rooms[p.room(i)] == nil {
				rooms[p.room(i)] = map[int]int{}
			}
			rooms[p.room(i)][p.target(i)]++
			all[p.target(i)]++
		}
		for room, on := range rooms {
			for target, n := range on {
				if len(on) != tt.want || n != 30/tt.want {
					t.Errorf("meet on %d: room %d is on %d addresses, %d of it on address %d", tt.meet, room, len(on), n, target)
				}
			}
		}
		for target, n := range all {
			if n != p.Conns/6 {
				t.Errorf("meet on %d: %d connections on address %d, want %d", tt.meet, n, target, p.Conns/6)
			}
		}
	}
}
