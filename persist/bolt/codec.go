package bolt

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/parley-chat/parley/contracts"
)

// An entry's value: version 1, epoch 4, offset 8, hash 16, key 16, time 8, guest 1; then varint reply_to; then kind,
// sender, name, text and meta, each behind its varint length. The position stands at a fixed place because look-ups
// read only that.
const (
	valueVersion = 1
	valueFixed   = 1 + 4 + 8 + 16 + 16 + 8 + 1
	positionSize = 4 + 8
	seqSize      = 8
)

var errDamaged = errors.New("damaged value")

func entryKey(room contracts.RoomID, seq contracts.Seq) []byte {
	k := make([]byte, 0, len(room)+1+seqSize)
	k = append(k, room...)
	k = append(k, 0)
	return binary.BigEndian.AppendUint64(k, uint64(seq))
}

// keySeq returns the seq of an entry's key if it is one of room.
func keySeq(k []byte, room contracts.RoomID) (contracts.Seq, bool) {
	if len(k) != len(room)+1+seqSize || string(k[:len(room)]) != string(room) || k[len(room)] != 0 {
		return 0, false
	}
	return contracts.Seq(binary.BigEndian.Uint64(k[len(room)+1:])), true
}

// keyKey is an identity's place in bucketKeys.
func keyKey(id contracts.Identity) []byte {
	k := make([]byte, 0, len(id.Key)+len(id.Room)+1+len(id.Sender))
	k = append(k, id.Key[:]...)
	k = append(k, id.Room...)
	k = append(k, 0)
	return append(k, id.Sender...)
}

// identityKey is an identity's place in bucketIdentities.
func identityKey(id contracts.Identity) []byte {
	k := make([]byte, 0, len(id.Room)+len(id.Sender)+2+len(id.Key))
	k = append(k, id.Room...)
	k = append(k, 0)
	k = append(k, id.Sender...)
	k = append(k, 0)
	return append(k, id.Key[:]...)
}

func appendPosition(dst []byte, p contracts.Position) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(p.Epoch))
	return binary.BigEndian.AppendUint64(dst, uint64(p.Offset))
}

func readPosition(b []byte) contracts.Position {
	return contracts.Position{Epoch: contracts.Epoch(binary.BigEndian.Uint32(b)), Offset: int64(binary.BigEndian.Uint64(b[4:]))}
}

// valuePosition reads only the position of an entry's value.
func valuePosition(v []byte) (contracts.Position, error) {
	if len(v) < valueFixed || v[0] != valueVersion {
		return contracts.Position{}, errDamaged
	}
	return readPosition(v[1:]), nil
}

func encodeEntry(e *contracts.Entry) []byte {
	v := make([]byte, 0, valueFixed+24+len(e.Kind)+len(e.From.ID)+len(e.From.Name)+len(e.Text)+len(e.Meta))
	v = append(v, valueVersion)
	v = appendPosition(v, e.Position())
	v = append(v, e.Hash[:]...)
	v = append(v, e.Key[:]...)
	v = binary.BigEndian.AppendUint64(v, uint64(e.Stamp))
	if e.From.Guest {
		v = append(v, 1)
	} else {
		v = append(v, 0)
	}
	v = binary.AppendUvarint(v, uint64(e.ReplyTo))
	for _, s := range []string{string(e.Kind), string(e.From.ID), e.From.Name, e.Text, string(e.Meta)} {
		v = binary.AppendUvarint(v, uint64(len(s)))
		v = append(v, s...)
	}
	return v
}

// decodeEntry reads a value; nothing of v is kept.
func decodeEntry(room contracts.RoomID, seq contracts.Seq, v []byte) (contracts.Entry, error) {
	var e contracts.Entry
	at, err := valuePosition(v)
	if err != nil {
		return e, fmt.Errorf("read entry %d of room %s: %w", seq, room, err)
	}
	e.Room, e.Seq, e.Epoch, e.Offset = room, seq, at.Epoch, at.Offset
	b := v[1+positionSize:]
	b = b[copy(e.Hash[:], b):]
	b = b[copy(e.Key[:], b):]
	e.Stamp = int64(binary.BigEndian.Uint64(b))
	e.From.Guest = b[8] == 1
	b = b[9:]
	reply, n := binary.Uvarint(b)
	if n <= 0 {
		return e, fmt.Errorf("read entry %d of room %s: %w", seq, room, errDamaged)
	}
	e.ReplyTo = contracts.Seq(reply)
	b = b[n:]
	var fields [5]string
	for i := range fields {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > uint64(len(b)-n) {
			return e, fmt.Errorf("read entry %d of room %s: %w", seq, room, errDamaged)
		}
		fields[i] = string(b[n : n+int(size)])
		b = b[n+int(size):]
	}
	e.Kind, e.From.ID, e.From.Name, e.Text = contracts.Kind(fields[0]), contracts.UserID(fields[1]), fields[2], fields[3]
	if fields[4] != "" {
		e.Meta = []byte(fields[4])
	}
	return e, nil
}

func partitionKey(partition int32) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(partition))
}

// A checkpoint's value: position 12, key time 8, hash 16, sequencer 4.
const checkpointSize = positionSize + 8 + 16 + 4

func encodeCheckpoint(c contracts.Checkpoint) []byte {
	v := make([]byte, 0, checkpointSize)
	v = appendPosition(v, contracts.Position{Epoch: c.Epoch, Offset: c.Offset})
	v = binary.BigEndian.AppendUint64(v, uint64(c.KeyTime))
	v = append(v, c.Last[:]...)
	return binary.BigEndian.AppendUint32(v, uint32(c.Sequencer))
}

func decodeCheckpoint(key, v []byte) (contracts.Checkpoint, error) {
	if len(key) != 4 || len(v) != checkpointSize {
		return contracts.Checkpoint{}, fmt.Errorf("read checkpoint: %w", errDamaged)
	}
	at := readPosition(v)
	c := contracts.Checkpoint{
		Partition: partitionOf(key), Epoch: at.Epoch, Offset: at.Offset,
		KeyTime:   int64(binary.BigEndian.Uint64(v[positionSize:])),
		Sequencer: int(binary.BigEndian.Uint32(v[checkpointSize-4:])),
	}
	copy(c.Last[:], v[positionSize+8:])
	return c, nil
}

func partitionOf(key []byte) int32 { return int32(binary.BigEndian.Uint32(key)) }
