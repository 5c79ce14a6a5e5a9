// Package floor is the least that a WebSocket broadcaster in Go can do: one epoll loop, an upgrade, rooms, and a number
// on every message. It has no login, limits, history, timers or log, and loses everything when it ends. What it costs is
// what any server must pay to the kernel; it is the yardstick for the edge, not a second one.
package floor
