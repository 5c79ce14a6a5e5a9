package workers

import (
	"errors"
	"strconv"

	"github.com/parley-chat/parley/contracts"
)

// Replies with entries are put together by hand: encoding/json would read and copy every entry's bytes again, twice.
// They are well-formed, whichever part they come from: the cache checks a sum over them, the dispatcher's reply was read
// as JSON, and what is in the store is encoded here.

// joinOK is contracts.JoinOK in JSON.
func joinOK(j *contracts.JoinOK, entries []contracts.NumberedJSON) []byte {
	b := make([]byte, 0, 256+sizeOf(entries))
	b = append(b, `{"room":"`...)
	b = append(b, j.Room...)
	b = append(b, `","state":"`...)
	b = append(b, j.State...)
	b = append(b, `","epoch":`...)
	b = strconv.AppendUint(b, uint64(j.Epoch), 10)
	b = append(b, `,"head":`...)
	b = strconv.AppendUint(b, uint64(j.Head), 10)
	b = append(b, `,"first":`...)
	b = strconv.AppendUint(b, uint64(j.First), 10)
	b = append(b, `,"entries":`...)
	b = appendEntries(b, entries)
	b = append(b, `,"online":`...)
	b = strconv.AppendInt(b, int64(j.Online), 10)
	return append(b, '}')
}

// historyOK is contracts.HistoryOK in JSON.
func historyOK(h *contracts.HistoryOK, entries []contracts.NumberedJSON) []byte {
	b := make([]byte, 0, 128+sizeOf(entries))
	b = append(b, `{"entries":`...)
	b = appendEntries(b, entries)
	b = append(b, `,"epoch":`...)
	b = strconv.AppendUint(b, uint64(h.Epoch), 10)
	b = append(b, `,"head":`...)
	b = strconv.AppendUint(b, uint64(h.Head), 10)
	b = append(b, `,"more":`...)
	b = strconv.AppendBool(b, h.More)
	return append(b, '}')
}

// sendOK is contracts.SendOK in JSON.
func sendOK(key contracts.Key, stamp int64) []byte {
	b := make([]byte, 0, 80)
	b = append(b, `{"key":"`...)
	b = append(b, key.String()...)
	b = append(b, `","time":`...)
	b = strconv.AppendInt(b, stamp, 10)
	return append(b, '}')
}

func sizeOf(entries []contracts.NumberedJSON) (size int) {
	for i := range entries {
		size += len(entries[i].JSON) + 1
	}
	return size
}

func appendEntries(b []byte, entries []contracts.NumberedJSON) []byte {
	b = append(b, '[')
	for i := range entries {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, entries[i].JSON...)
	}
	return append(b, ']')
}

// encodeAnswer is a in JSON, at most most bytes long (0: any number).
func encodeAnswer(a *contracts.Answer, most int) (body []byte, err error) {
	plain := false
	if a.Batch != nil && a.OK == nil && a.Err == nil && a.Connected == nil && a.Joined == nil && a.Entries == nil {
		body, plain = contracts.AppendAnswers(make([]byte, 0, 16+128*len(a.Batch)), a.Batch)
	}
	switch {
	case plain:
	case a.Err != nil || a.Batch != nil || a.Entries != nil || a.Connected != nil && a.Joined != nil:
		body, err = contracts.Marshal(a)
	case a.Connected != nil:
		body = append(make([]byte, 0, len(a.OK)+1536), '{')
		if a.OK != nil {
			body = append(body, `"ok":`...)
			body = append(body, a.OK...)
			body = append(body, ',')
		}
		body = append(body, `"connected":`...)
		body = append(contracts.AppendConnected(body, a.Connected), '}')
	default:
		body = make([]byte, 0, len(a.OK)+128)
		body = append(body, `{"ok":`...)
		body = append(body, a.OK...)
		if j := a.Joined; j != nil {
			body = append(body, `,"joined":{"state":"`...)
			body = append(body, j.State...)
			body = append(body, `","epoch":`...)
			body = strconv.AppendUint(body, uint64(j.Epoch), 10)
			body = append(body, `,"head":`...)
			body = strconv.AppendUint(body, uint64(j.Head), 10)
			body = append(body, '}')
		}
		body = append(body, '}')
	}
	if err == nil && most > 0 && len(body) > most {
		err = errors.New("the answer is larger than the broker's limit")
	}
	return body, err
}
