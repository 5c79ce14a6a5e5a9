//go:build !planted

package planted

// On reports whether this process makes the mistake: never, in a build without the tag planted.
func On(Bug) bool { return false }

// Next is the counter of RedisCounter and WorkerPublishes.
func Next(string) uint64 { return 0 }
