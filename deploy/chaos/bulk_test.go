package chaos

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.mongodb.org/mongo-driver/v2/bson"

	"github.com/parley-chat/parley/contracts"
	"github.com/parley-chat/parley/deploy/chaos/proxy"
)

// wire builds a message: its number, the one that it answers, its document, and a sequence of documents if there are any.
func wire(t *testing.T, number, answers uint32, doc bson.D, sequence ...bson.D) []byte {
	t.Helper()
	marshal := func(d bson.D) []byte {
		b, err := bson.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	m := make([]byte, wireBody)
	binary.LittleEndian.PutUint32(m[4:], number)
	binary.LittleEndian.PutUint32(m[8:], answers)
	binary.LittleEndian.PutUint32(m[12:], wireMsg)
	m = append(append(m, wireDocument), marshal(doc)...)
	if len(sequence) > 0 {
		section := append(make([]byte, 4), "documents\x00"...)
		for _, d := range sequence {
			section = append(section, marshal(d)...)
		}
		binary.LittleEndian.PutUint32(section, uint32(len(section)))
		m = append(append(m, wireSequence), section...)
	}
	binary.LittleEndian.PutUint32(m, uint32(len(m)))
	return m
}

func row(n int) bson.D { return bson.D{{Key: "_id", Value: int32(n)}} }

// through has c edit bytes in pieces of so many.
func through(c proxy.Editor, d proxy.Direction, b []byte, piece int) (out []byte) {
	for p := range slices.Chunk(b, piece) {
		out = append(out, c.Edit(d, p)...)
	}
	return out
}

func TestBulksAreHarmed(t *testing.T) {
	insert := func(number uint32, into string, rows ...bson.D) []byte {
		return wire(t, number, 0, bson.D{{Key: "insert", Value: into}, {Key: "ordered", Value: false}}, rows...)
	}
	fine := func(answers uint32, n int) []byte {
		return wire(t, 900, answers, bson.D{{Key: "n", Value: int32(n)}, {Key: "ok", Value: 1.0}})
	}
	failed := func(answers uint32, n int, codes ...[2]int32) []byte {
		var all []bson.D
		for _, c := range codes {
			all = append(all, bson.D{{Key: "index", Value: c[0]}, {Key: "code", Value: c[1]}, {Key: "errmsg", Value: "x"}})
		}
		return wire(t, 900, answers, bson.D{{Key: "n", Value: int32(n)}, {Key: "ok", Value: 1.0}, {Key: "writeErrors", Value: all}})
	}
	entries := contracts.CollectionEntries
	tests := []struct {
		name            string
		request, answer []byte
		wantRequest     []byte
		wantFailures    [][2]int32 // index and code; nil: the answer is not changed
		unarmed         bool
	}{
		{name: "three", request: insert(7, entries, row(1), row(2), row(3)), answer: fine(7, 2),
			wantRequest: insert(7, entries, row(1), row(3)), wantFailures: [][2]int32{{0, wireDuplicate}, {1, wireWriteConflict}}},
		{name: "two", request: insert(7, entries, row(1), row(2)), answer: fine(7, 1),
			wantRequest: insert(7, entries, row(1)), wantFailures: [][2]int32{{0, wireDuplicate}, {1, wireWriteConflict}}},
		{name: "with failures of its own", request: insert(7, entries, row(1), row(2), row(3)), answer: failed(7, 0, [2]int32{0, 121}, [2]int32{1, wireDuplicate}),
			wantRequest: insert(7, entries, row(1), row(3)), wantFailures: [][2]int32{{0, 121}, {1, wireWriteConflict}, {2, wireDuplicate}}},
		{name: "one", request: insert(7, entries, row(1)), answer: fine(7, 1)},
		{name: "other documents", request: insert(7, "rooms", row(1), row(2)), answer: fine(7, 2)},
		{name: "no insert", request: wire(t, 7, 0, bson.D{{Key: "find", Value: entries}}), answer: fine(7, 2)},
		{name: "not armed", request: insert(7, entries, row(1), row(2)), answer: fine(7, 2), unarmed: true},
		{name: "something else", request: []byte("\xff\xff\xff\xff and what else is said"), answer: fine(7, 2)},
	}
	for _, tt := range tests {
		for _, piece := range []int{1, 7, 1 << 20} {
			t.Run(tt.name, func(t *testing.T) {
				b := &bulks{}
				b.armed.Store(!tt.unarmed)
				c := b.editor()
				before := wire(t, 1, 0, bson.D{{Key: "hello", Value: int32(1)}})
				want := tt.request
				if tt.wantRequest != nil {
					want = tt.wantRequest
				}
				got := through(c, proxy.Up, slices.Concat(before, tt.request), piece)
				if diff := cmp.Diff(slices.Concat(before, want), got); diff != "" {
					t.Errorf("request (-want +got):\n%s", diff)
				}
				answer := through(c, proxy.Down, tt.answer, piece)
				if tt.wantFailures == nil {
					if diff := cmp.Diff(tt.answer, answer); diff != "" {
						t.Errorf("answer (-want +got):\n%s", diff)
					}
					return
				}
				if n := int(binary.LittleEndian.Uint32(answer)); n != len(answer) {
					t.Fatalf("the answer says %d bytes and has %d", n, len(answer))
				}
				var reply struct {
					OK       float64 `bson:"ok"`
					Failures []struct {
						Index, Code int32
					} `bson:"writeErrors"`
				}
				if err := bson.Unmarshal(answer[wireBody+1:], &reply); err != nil {
					t.Fatal(err)
				}
				var failures [][2]int32
				for _, f := range reply.Failures {
					failures = append(failures, [2]int32{f.Index, f.Code})
				}
				if diff := cmp.Diff(tt.wantFailures, failures); diff != "" || reply.OK != 1 {
					t.Errorf("answer (-want +got), ok %v:\n%s", reply.OK, diff)
				}
			})
		}
	}
	// Every second passes, so that a later try does.
	b := &bulks{}
	b.armed.Store(true)
	c := b.editor()
	for n := range uint32(6) {
		m := insert(n, entries, row(1), row(2))
		if got := c.Edit(proxy.Up, m); (len(got) < len(m)) != (n%2 == 0) {
			t.Errorf("insert %d became %d bytes of %d", n, len(got), len(m))
		}
	}
}
