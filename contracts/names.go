package contracts

import (
	"hash/fnv"
	"strconv"
)

// The fixed shape of every installation. They are part of the delivery contract: changing one moves rooms to other
// partitions, and numbers would start again.
const (
	Lanes              = 4096 // Redis channels that carry the rooms
	LaneGroups         = 16   // groups of lanes that share a Redis Cluster slot
	DefaultPartitions  = 64   // of the log, on a real Kafka
	EmbeddedPartitions = 8    // of the log, inside one process
)

// Lane is the Redis channel that carries a room: 0 … Lanes-1.
type Lane uint16

// LaneOf returns a room's lane: the 64-bit FNV-1a hash of its id, modulo Lanes.
func LaneOf(room RoomID) Lane {
	h := fnv.New64a()
	_, _ = h.Write([]byte(room))
	return Lane(h.Sum64() % Lanes)
}

// Partition returns the lane's partition of the log. partitions is a power of two of at most Lanes.
func (l Lane) Partition(partitions int) int32 { return int32(int(l) % partitions) }

// Group returns the lane's group: 0 … LaneGroups-1.
func (l Lane) Group() int { return int(l) % LaneGroups }

// ValidPartitions reports whether n can be a partition count: a power of two, 1 … Lanes.
func ValidPartitions(n int) bool { return n >= 1 && n <= Lanes && n&(n-1) == 0 }

// Names builds every subject, channel, key, topic and collection name. Two installations may share the same servers
// under different prefixes.
type Names struct {
	// Prefix has the form of a RoomID. Defaults to "parley".
	Prefix string
}

func (n Names) prefix() string {
	if n.Prefix == "" {
		return "parley"
	}
	return n.Prefix
}

func (n Names) group(group int) string { return n.prefix() + ":{g" + strconv.Itoa(group) + "}:" }

// NATS subjects.

// Work is the subject on which workers are asked op for a partition.
func (n Names) Work(op Op, partition int32) string {
	return n.prefix() + ".v1.work." + string(op) + "." + strconv.Itoa(int(partition))
}

// WorkAll is the pattern that a worker serves for op: every partition.
func (n Names) WorkAll(op Op) string { return n.prefix() + ".v1.work." + string(op) + ".*" }

// WorkGathered is the subject on which workers take many commands of all ops in one message.
func (n Names) WorkGathered() string { return n.prefix() + ".v1.work.gathered" }

// Dispatch is the subject on which the dispatcher that owns a partition answers.
func (n Names) Dispatch(partition int32) string {
	return n.prefix() + ".v1.dispatch." + strconv.Itoa(int(partition))
}

// WorkQueue is the queue group of the workers.
func (n Names) WorkQueue() string { return n.prefix() + "-workers" }

// Service is the name under which a role shows in `nats micro ls`.
func (n Names) Service(role string) string { return n.prefix() + "-" + role }

// Redis channels and keys. The hash tag {gN} keeps a lane group's channels and keys in one Redis Cluster slot.

// LaneChannel is the channel that carries a lane.
func (n Names) LaneChannel(l Lane) string {
	return n.group(l.Group()) + "lane:" + strconv.Itoa(int(l))
}

// CanaryChannel is the channel on which a node hears itself, per lane group.
func (n Names) CanaryChannel(group int, node NodeID) string {
	return n.group(group) + "canary:" + string(node)
}

// RecentKey is the stream of a room's recent entries in one epoch.
func (n Names) RecentKey(room RoomID, epoch Epoch) string {
	return n.group(LaneOf(room).Group()) + "recent:" + string(room) + ":" + strconv.Itoa(int(epoch))
}

// PresentKey is the hash of who listens to a room, by user; PresentNodesKey holds the nodes through which. Package
// fanout says what is in them.
func (n Names) PresentKey(room RoomID) string {
	return n.group(LaneOf(room).Group()) + "present:" + string(room)
}

// PresentNodesKey is in the same slot as PresentKey.
func (n Names) PresentNodesKey(room RoomID) string {
	return n.group(LaneOf(room).Group()) + "present-nodes:" + string(room)
}

// PresentTurnKey is held for the pause between two presence events of a large room.
func (n Names) PresentTurnKey(room RoomID) string {
	return n.group(LaneOf(room).Group()) + "present-turn:" + string(room)
}

// NodesKey is the sorted set of live edge nodes, scored by the Unix milliseconds at which each one's lease ends.
func (n Names) NodesKey() string { return n.prefix() + ":nodes" }

// Kafka.

// LogTopic is the topic of the log.
func (n Names) LogTopic() string { return n.prefix() + ".log" }

// DispatchGroup is the dispatchers' consumer group.
func (n Names) DispatchGroup() string { return n.prefix() + "-dispatch" }

// PersistGroup is the persisters' consumer group.
func (n Names) PersistGroup() string { return n.prefix() + "-persist" }

// Database is the MongoDB database where the URI names none.
func (n Names) Database() string { return n.prefix() }

// Collections of the database (buckets of the embedded one).
const (
	CollectionEntries     = "entries"
	CollectionCheckpoints = "checkpoints"
	CollectionMeta        = "meta"
	CollectionDead        = "dead"
	CollectionMembers     = "members"
	CollectionRooms       = "rooms"
)
