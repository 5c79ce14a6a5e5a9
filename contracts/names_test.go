package contracts_test

import (
	"strings"
	"testing"

	"github.com/parley-chat/parley/contracts"
)

// The lanes of some rooms. Another hash would move every room to another partition and start its numbers again.
func TestLaneOfIsFixed(t *testing.T) {
	want := map[contracts.RoomID]contracts.Lane{"lobby": 1331, "a": 3212, "general": 2315, "A-Z_09": 2791, "room-1": 1868}
	for room, lane := range want {
		if got := contracts.LaneOf(room); got != lane {
			t.Errorf("LaneOf(%s) = %d, want %d for ever", room, got, lane)
		}
	}
}

func TestLanesArePartitioned(t *testing.T) {
	for _, partitions := range []int{1, 8, 64, 4096} {
		if !contracts.ValidPartitions(partitions) {
			t.Errorf("%d partitions are refused", partitions)
		}
		rooms := make([]int, partitions)
		for lane := range contracts.Lane(contracts.Lanes) {
			p := lane.Partition(partitions)
			if p < 0 || int(p) >= partitions {
				t.Fatalf("lane %d has the partition %d of %d", lane, p, partitions)
			}
			rooms[p]++
		}
		for p, n := range rooms {
			if n != contracts.Lanes/partitions {
				t.Errorf("partition %d of %d has %d lanes", p, partitions, n)
			}
		}
	}
	for _, partitions := range []int{0, -1, 3, 12, 8192} {
		if contracts.ValidPartitions(partitions) {
			t.Errorf("%d partitions are accepted", partitions)
		}
	}
}

func TestNames(t *testing.T) {
	n := contracts.Names{}
	lane := contracts.LaneOf("lobby")
	group := "{g" + itoa(lane.Group()) + "}"
	tests := []struct{ got, want string }{
		{n.Work(contracts.OpSend, 7), "parley.v1.work.send.7"},
		{n.WorkAll(contracts.OpSend), "parley.v1.work.send.*"},
		{n.WorkGathered(), "parley.v1.work.gathered"},
		{n.Dispatch(7), "parley.v1.dispatch.7"},
		{n.WorkQueue(), "parley-workers"},
		{n.Service("worker"), "parley-worker"},
		{n.LaneChannel(lane), "parley:" + group + ":lane:" + itoa(int(lane))},
		{n.CanaryChannel(3, "edge-1"), "parley:{g3}:canary:edge-1"},
		{n.RecentKey("lobby", 2), "parley:" + group + ":recent:lobby:2"},
		{n.PresentKey("lobby"), "parley:" + group + ":present:lobby"},
		{n.PresentNodesKey("lobby"), "parley:" + group + ":present-nodes:lobby"},
		{n.PresentTurnKey("lobby"), "parley:" + group + ":present-turn:lobby"},
		{n.NodesKey(), "parley:nodes"},
		{n.LogTopic(), "parley.log"},
		{n.DispatchGroup(), "parley-dispatch"},
		{n.PersistGroup(), "parley-persist"},
		{n.Database(), "parley"},
	}
	other := contracts.Names{Prefix: "other"}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %s, want %s", tt.got, tt.want)
		}
	}
	for _, s := range []string{
		other.Work(contracts.OpSend, 7), other.WorkAll(contracts.OpSend), other.WorkGathered(), other.Dispatch(7), other.WorkQueue(), other.Service("worker"),
		other.LaneChannel(lane), other.CanaryChannel(3, "e"), other.RecentKey("lobby", 2),
		other.PresentKey("lobby"), other.PresentNodesKey("lobby"), other.PresentTurnKey("lobby"),
		other.NodesKey(), other.LogTopic(), other.DispatchGroup(), other.PersistGroup(), other.Database(),
	} {
		if !strings.HasPrefix(s, "other") {
			t.Errorf("%s does not begin with the prefix: two installations would meet", s)
		}
	}
}
