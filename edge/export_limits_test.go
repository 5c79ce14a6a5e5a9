package edge

import "unsafe"

// Buckets are a connection's buckets, driven by who calls them.
type Buckets struct {
	r rates
	b buckets
}

// BucketsSize is what buckets add to a connection.
const BucketsSize = unsafe.Sizeof(buckets{})

// NewBuckets makes full buckets of a configuration.
func NewBuckets(c Config) *Buckets {
	c.setDefaults()
	return &Buckets{r: newRates(&c)}
}

// Take counts one frame at a tick; it returns the ticks to wait and the limit's name.
func (b *Buckets) Take(now uint32, size int, join bool) (wait uint32, met string) {
	wait, l := b.b.take(&b.r, now, size, join)
	return wait, limitNames[l]
}

// Strained reports whether the connection would be closed.
func (b *Buckets) Strained() bool { return b.b.strained() }
