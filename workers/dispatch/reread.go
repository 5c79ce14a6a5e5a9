package dispatch

import (
	"context"
	"fmt"

	"github.com/parley-chat/parley/contracts"
)

// rereadRecords is how many records one read for dropped entries asks for.
const rereadRecords = 256

// piece is an entry on its way to a reader or to Redis.
type piece struct {
	room   contracts.RoomID
	seq    contracts.Seq
	offset int64
	body   []byte // nil: fill reads it
}

// fill reads the encodings that are missing from the log again. Numbers are a function of the log, so the bytes are
// those of the first time.
func (d *Dispatcher) fill(ctx context.Context, partition int32, epoch contracts.Epoch, pieces []piece) error {
	for i := range pieces {
		if pieces[i].body != nil {
			continue
		}
		d.metrics.rereads.Inc()
		records, err := d.deps.Log.Read(ctx, partition, pieces[i].offset, rereadRecords)
		if err != nil {
			return fmt.Errorf("read entry %d of room %s at offset %d again: %w", pieces[i].seq, pieces[i].room, pieces[i].offset, err)
		}
		values := make(map[int64][]byte, len(records))
		for _, r := range records {
			values[r.Offset] = r.Value
		}
		for j := i; j < len(pieces); j++ {
			p := &pieces[j]
			value, ok := values[p.offset]
			if p.body != nil || !ok {
				continue
			}
			rec, err := contracts.DecodeRecord(value, partition, d.cfg.Partitions)
			if err != nil {
				return fmt.Errorf("read entry %d of room %s at offset %d again: %w", p.seq, p.room, p.offset, err)
			}
			p.body = encode(rec, p.seq, epoch, p.offset)
		}
		if pieces[i].body == nil {
			return fmt.Errorf("read entry %d of room %s again: the log holds nothing at offset %d", pieces[i].seq, pieces[i].room, pieces[i].offset)
		}
	}
	return nil
}

func encode(rec contracts.Record, seq contracts.Seq, epoch contracts.Epoch, offset int64) []byte {
	e := contracts.Entry{Record: rec, Seq: seq, Epoch: epoch, Offset: offset}
	return contracts.AppendEntry(make([]byte, 0, 224+len(rec.Text)+len(rec.Text)/8+len(rec.Meta)), &e)
}
