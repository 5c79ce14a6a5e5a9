package edge_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/edge"
)

// ticksPerS is how many ticks of a loop a second has.
const ticksPerS = 4

// passed sends n frames at one tick and returns how many passed.
func passed(b *edge.Buckets, now uint32, n, size int, join bool) int {
	ok := 0
	for range n {
		if wait, _ := b.Take(now, size, join); wait == 0 {
			ok++
		}
	}
	return ok
}

func TestBuckets(t *testing.T) {
	if edge.BucketsSize > 16 {
		t.Errorf("buckets take %d bytes of every connection", edge.BucketsSize)
	}
	defaults := edge.Config{Limits: edge.DefaultLimits()}
	for _, row := range []struct {
		name  string
		size  int
		join  bool
		burst int // pass at once
		perS  int // pass per second from then on
		met   string
	}{
		{"frames", 100, false, 40, 20, "frames"},
		{"bytes", 32 << 10, false, 4, 2, "bytes"},
		{"a whole message", 64 << 10, false, 2, 1, "bytes"},
		{"joins", 60, true, 1000, 20, "joins"},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := edge.NewBuckets(defaults)
			now := uint32(1000)
			if n := passed(b, now, 2000, row.size, row.join); n != row.burst {
				t.Fatalf("%d passed at once, want %d", n, row.burst)
			}
			wait, met := b.Take(now, row.size, row.join)
			if met != row.met || wait == 0 || wait > ticksPerS {
				t.Fatalf("wait %d ticks for %s, want %s", wait, met, row.met)
			}
			// After the wait it passes, and not before.
			if n := passed(b, now+wait-1, 1, row.size, row.join); n != 0 {
				t.Error("passed too early")
			}
			if n := passed(b, now+wait, 1, row.size, row.join); n != 1 {
				t.Error("did not pass after the wait")
			}
			now += wait
			sum := 0
			for range 10 * ticksPerS {
				now++
				sum += passed(b, now, 50, row.size, row.join)
			}
			if sum < 10*row.perS-1 || sum > 10*row.perS+row.perS/ticksPerS {
				t.Errorf("%d passed in 10 s, want %d", sum, 10*row.perS)
			}
			// A long silence gives the burst back, no more, however long it was.
			for _, silence := range []uint32{1 << 12, 1 << 20, 1 << 31} {
				now += silence
				if n := passed(b, now, 2000, row.size, row.join); n != row.burst {
					t.Errorf("%d passed after %d ticks of silence, want %d", n, silence, row.burst)
				}
			}
		})
	}
}

func TestBucketsApart(t *testing.T) {
	b := edge.NewBuckets(edge.Config{Limits: edge.DefaultLimits()})
	if n := passed(b, 5, 900, 60, true); n != 900 {
		t.Fatalf("%d joins passed", n)
	}
	if n := passed(b, 5, 100, 10, false); n != 40 {
		t.Errorf("%d frames passed beside the joins", n)
	}
}

// TestBucketsOff: what is off counts nothing.
func TestBucketsOff(t *testing.T) {
	b := edge.NewBuckets(edge.Config{})
	if n := passed(b, 5, 100_000, 60<<10, false) + passed(b, 5, 100_000, 60<<10, true); n != 200_000 {
		t.Errorf("%d passed", n)
	}
	b = edge.NewBuckets(edge.Config{Limits: edge.Limits{FramesPerS: 20}})
	if n := passed(b, 5, 10_000, 60<<10, true); n != 10_000 {
		t.Errorf("%d joins passed", n)
	}
}

// TestStrain: three times what is allowed for ten seconds closes, twice never does, a flood does at once.
func TestStrain(t *testing.T) {
	for _, row := range []struct {
		name     string
		perS     int // frames
		size     int
		from, to int // seconds until the end; 0: never
	}{
		{"as allowed", 20, 100, 0, 0},
		{"twice", 40, 100, 0, 0},
		{"not quite three times", 57, 100, 0, 0},
		{"three times", 61, 100, 10, 13},
		{"ten times", 200, 100, 2, 4},
		{"a flood", 5000, 100, 1, 1},
		{"twice the bytes", 4, 32 << 10, 0, 0},
		{"four times the bytes", 8, 32 << 10, 5, 11},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := edge.NewBuckets(edge.Config{Limits: edge.DefaultLimits()})
			closed := 0
			for s := 1; s <= 120 && closed == 0; s++ {
				for i := range row.perS {
					now := uint32(4*s + i*ticksPerS/row.perS)
					b.Take(now, row.size, false)
					if b.Strained() {
						closed = s
						break
					}
				}
			}
			if closed < row.from || closed > row.to {
				t.Errorf("closed after %d s, want %d to %d", closed, row.from, row.to)
			}
		})
	}
	// A pause forgives: nine hard seconds, one quiet, again and again.
	b := edge.NewBuckets(edge.Config{Limits: edge.DefaultLimits()})
	for s := range uint32(100) {
		if s%10 == 9 {
			continue
		}
		passed(b, 4*s, 62, 100, false)
		if b.Strained() {
			t.Fatalf("closed after %d s in spite of the pauses", s)
		}
	}
}

// FuzzBuckets: whatever comes, no more passes than burst and rate allow.
func FuzzBuckets(f *testing.F) {
	f.Add(uint64(1), uint16(20))
	f.Add(uint64(2), uint16(1))
	f.Add(uint64(3), uint16(8000))
	f.Fuzz(func(t *testing.T, seed uint64, rate uint16) {
		perS := 1 + int(rate)%8000
		b := edge.NewBuckets(edge.Config{Limits: edge.Limits{FramesPerS: perS}})
		rnd := rand.New(rand.NewPCG(seed, 0))
		start := uint32(rnd.Uint64())
		now, sum := start, 0
		for range 2000 {
			now += uint32(rnd.IntN(3))
			sum += passed(b, now, rnd.IntN(perS+2), 10, false)
		}
		if most := 2*perS + int(now-start+1)*perS/ticksPerS + 1; sum > most {
			t.Errorf("%d passed, at most %d may", sum, most)
		}
	})
}

// metricOf returns a metric's value for one value of its label.
func (w *world) metricOf(name, label string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "parley_edge_"+name && len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return 0
}

func limited(l edge.Limits) func(*edge.Config, *edge.Deps) {
	return func(c *edge.Config, _ *edge.Deps) { c.Limits = l }
}

func TestInboundLimits(t *testing.T) {
	pad := strings.Repeat("x", 8<<10)
	for _, row := range []struct {
		name, request string
		limits        edge.Limits
		n, least      int // how many are sent, how many pass at least
	}{
		{"frames", `{"id":%d,"op":"ping"}`, edge.Limits{FramesPerS: 20}, 200, 39},
		{"bytes", `{"id":%d,"op":"ping","pad":"` + pad + `"}`, edge.Limits{BytesPerS: 64 << 10}, 60, 15},
		{"joins", `{"id":%d,"op":"join","room":"a"}`, edge.Limits{JoinsPerS: 20}, 1200, 1000},
	} {
		t.Run(row.name, func(t *testing.T) {
			transports(t, func(t *testing.T, portable bool) {
				w := newWorld(t, portable, limited(row.limits))
				w.worker.script(contracts.OpJoin, func(q *asked) { q.joined(contracts.JoinComplete, 1, 5) })
				c := w.connected()
				ok, refused := 0, 0
				for i := range row.n {
					c.say(row.request, i+2)
					switch m := c.reply(uint64(i + 2)); {
					case m.OK != nil:
						ok++
					case m.Error.Code == contracts.CodeRateLimited && m.Error.Retry && m.Error.RetryAfterMS > 0 && m.Error.RetryAfterMS <= 1000:
						refused++
					default:
						t.Fatalf("got %s", m.raw)
					}
				}
				if ok < row.least || refused == 0 {
					t.Errorf("%d passed, %d were refused", ok, refused)
				}
				if n := w.metricOf("limited_total", row.name); n != float64(refused) {
					t.Errorf("%v counted, %d refused", n, refused)
				}
				until(t, "a frame that passes again", func() bool {
					c.say(`{"id":9999,"op":"ping"}`)
					return c.get().OK != nil
				})
			})
		})
	}
}

func TestFlood(t *testing.T) {
	for _, row := range []struct {
		name  string
		frame []byte
	}{
		{"requests", text(`{"id":1,"op":"ping"}`)},
		{"no JSON", text(`x`)},
		{"pings", frame(0x89, []byte("x"))},
		{"pongs", frame(0x8A, nil)},
	} {
		t.Run(row.name, func(t *testing.T) {
			transports(t, func(t *testing.T, portable bool) {
				w := newWorld(t, portable, limited(edge.DefaultLimits()))
				c, other := w.connected(), w.connected()
				go func() {
					for range 100 {
						if _, err := c.nc.Write([]byte(strings.Repeat(string(row.frame), 100))); err != nil {
							return
						}
					}
				}()
				for {
					m := c.get()
					if m.op != 8 {
						continue
					}
					if m.closing != contracts.CloseRateLimited {
						t.Errorf("closed with %d", m.closing)
					}
					break
				}
				_ = c.nc.Close()
				other.quiet()
				if n := w.metricOf("limited_total", "strain"); n != 1 {
					t.Errorf("%v counted", n)
				}
				until(t, "the end", func() bool { return w.server.Connections() == 1 })
			})
		})
	}
}

// TestRateLimitedSendStops: what stands behind a send that was refused must not overtake it, and what stands before it
// goes on, or stops for a reason of its own.
func TestRateLimitedSendStops(t *testing.T) {
	transports(t, func(t *testing.T, portable bool) {
		w := newWorld(t, portable, limited(edge.Limits{BytesPerS: 2000}))
		c := w.connected()
		big := func(id, keyed int) {
			c.say(`{"id":%d,"op":"send","room":"a","text":"%s","key":"%s"}`, id, strings.Repeat("x", 12<<10), key(keyed))
		}
		c.say(`{"id":100,"op":"ping","pad":"%s"}`, strings.Repeat("x", 62<<10)) // what is left is enough for small ones
		c.reply(100)

		c.send(1, "a", 1)
		first := w.worker.next(t, contracts.OpSend)
		big(2, 2)
		c.fails(2, contracts.CodeRateLimited)
		c.send(3, "a", 3) // behind it
		c.fails(3, contracts.CodeRateLimited)
		c.send(4, "a", 0)
		c.fails(4, contracts.CodeRateLimited)
		c.send(5, "b", 5) // another room goes on
		w.worker.next(t, contracts.OpSend).ok(`{}`)
		c.reply(5)
		big(6, 2) // its key comes again, too early
		c.fails(6, contracts.CodeRateLimited)
		c.send(7, "a", 2)
		c.send(8, "a", 3)
		c.quiet()
		first.ok(`{}`)
		c.reply(1)
		second := w.worker.next(t, contracts.OpSend)
		if diff := cmp.Diff([]string{"t7", "t8"}, second.texts(t)); diff != "" {
			t.Error(diff)
		}

		// What is before the refused one fails later: from then on that one comes first.
		c.send(9, "a", 9)
		big(10, 10)
		c.fails(10, contracts.CodeRateLimited)
		second.answer(errOf(contracts.CodeUnavailable))
		for _, id := range []uint64{7, 8, 9} {
			c.fails(id, contracts.CodeUnavailable)
		}
		c.send(11, "a", 10)
		c.fails(11, contracts.CodeUnavailable)
		c.send(12, "a", 2)
		w.worker.next(t, contracts.OpSend).ok(`{}`)
		c.reply(12)
	})
}
