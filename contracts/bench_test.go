package contracts_test

import (
	"testing"

	"github.com/parley-chat/parley/contracts"
)

const sendFrame = `{"id":7,"op":"send","room":"lobby","key":"01997c1e-5a00-7cc3-98c4-dc0c0c07398f","text":"hi everybody, how is it going tonight?"}`

func sampleRecord() contracts.Record {
	key, err := contracts.ParseKey("01997c1e-5a00-7cc3-98c4-dc0c0c07398f")
	if err != nil {
		panic(err)
	}
	return contracts.Record{
		Kind: contracts.KindMessage, Room: "lobby", From: contracts.Person{ID: "u1", Name: "Ada Lovelace", Guest: true},
		Key: key, Stamp: 1_790_000_000_000, Text: "hi everybody, \"how\" is it\ngoing tonight? ✨",
	}
}

func BenchmarkParseObject(b *testing.B) {
	frame := []byte(sendFrame)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := contracts.ParseObject(frame); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodeRecord(b *testing.B) {
	r := sampleRecord()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := contracts.EncodeRecord(&r); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeRecord(b *testing.B) {
	r := sampleRecord()
	value, err := contracts.EncodeRecord(&r)
	if err != nil {
		b.Fatal(err)
	}
	partition := contracts.LaneOf(r.Room).Partition(8)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := contracts.DecodeRecord(value, partition, 8); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendEntry(b *testing.B) {
	e := contracts.Entry{Record: sampleRecord(), Seq: 58, Epoch: 1}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = contracts.AppendEntry(buf[:0], &e)
	}
}

func BenchmarkEnvelope(b *testing.B) {
	e := contracts.Entry{Record: sampleRecord(), Seq: 58, Epoch: 1}
	in := contracts.Envelope{Kind: contracts.EnvelopeEntry, Room: e.Room, Epoch: 1, Seq: 58, Body: contracts.AppendEntry(nil, &e)}
	var buf []byte
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = contracts.AppendEnvelope(buf[:0], &in)
		}
	})
	b.Run("next", func(b *testing.B) {
		buf = contracts.AppendEnvelope(buf[:0], &in)
		b.ReportAllocs()
		for b.Loop() {
			if _, _, err := contracts.NextEnvelope(buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkNames(b *testing.B) {
	names := contracts.Names{}
	b.Run("LaneOf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			contracts.LaneOf("a-room-of-our-own")
		}
	})
	b.Run("RecentKey", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			names.RecentKey("a-room-of-our-own", 1)
		}
	})
	b.Run("LaneChannel", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			names.LaneChannel(77)
		}
	})
}
