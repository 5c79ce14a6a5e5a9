package fanout

import "time"

// SetClock makes the roster read the time from now.
func (r *RedisRoster) SetClock(now func() time.Time) { r.now = now }
