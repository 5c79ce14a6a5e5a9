package fanout

import (
	"time"

	"github.com/parley-chat/parley/contracts"
)

// SetClock makes the roster read the time from now.
func (r *RedisRoster) SetClock(now func() time.Time) { r.now = now }

// SetRunTime bounds a run of the roster's script.
func (r *RedisRoster) SetRunTime(d time.Duration) { r.runTime = d }

// SplitQueues gives the roster the queues that it has on a cluster.
func (r *RedisRoster) SplitQueues() { r.queues = newRosterQueues(contracts.LaneGroups) }

// Forget plays an old reading of the live nodes, from before node came, that is answered last.
func (r *RedisRoster) Forget(node contracts.NodeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.live, node)
}
