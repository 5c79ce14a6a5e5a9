package workers

import "sync"

// cache remembers the last keys used, between limit/2 and limit of them: two maps of which the older one is forgotten
// when the newer one is half full. It is safe for concurrent use.
type cache[K comparable, V any] struct {
	half int

	mu         sync.Mutex
	newer, old map[K]V // guarded by mu
}

func newCache[K comparable, V any](limit int) *cache[K, V] {
	return &cache[K, V]{half: max(1, limit/2), newer: make(map[K]V)}
}

func (c *cache[K, V]) get(k K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := c.newer[k]; ok {
		return v, true
	}
	v, ok := c.old[k]
	if ok {
		c.store(k, v)
	}
	return v, ok
}

func (c *cache[K, V]) put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.store(k, v)
}

// getOrPut returns what k has, or gives it what make returns.
func (c *cache[K, V]) getOrPut(k K, make func() V) V {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.newer[k]
	if ok {
		return v
	}
	if v, ok = c.old[k]; !ok {
		v = make()
	}
	c.store(k, v)
	return v
}

func (c *cache[K, V]) remove(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.newer, k)
	delete(c.old, k)
}

// store needs mu.
func (c *cache[K, V]) store(k K, v V) {
	if len(c.newer) >= c.half {
		c.old, c.newer = c.newer, make(map[K]V)
	}
	c.newer[k] = v
}
