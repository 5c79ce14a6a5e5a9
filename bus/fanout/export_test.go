package fanout

import (
	"time"

	"github.com/parley-chat/parley/contracts"
)

// SetClock makes the roster read the time from now.
func (r *RedisRoster) SetClock(now func() time.Time) { r.now = now }

// SplitQueues gives the roster the queues that it has on a cluster.
func (r *RedisRoster) SplitQueues() { r.queues = newRosterQueues(contracts.LaneGroups) }
