package contracts

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"unicode/utf8"
)

// recordMagic begins every log record; the byte behind it is the version, the rest is the Record in JSON.
const recordMagic = 'P'

// Errors of DecodeRecord.
var (
	// ErrUndecodable marks a record that no release can read. It takes no seq and goes to the dead letters.
	ErrUndecodable = errors.New("undecodable log record")
	// ErrNewerVersion marks a record of a release newer than this one. Its partition stops until this part is updated.
	ErrNewerVersion = errors.New("log record of a newer version")
)

// EncodeRecord returns r as a log record's bytes. It refuses what DecodeRecord would not read back: an acked record must
// never become a dead letter.
func EncodeRecord(r *Record) ([]byte, error) {
	switch {
	case r.Kind != KindMessage:
		return nil, fmt.Errorf("encode record: kind %q", r.Kind)
	case !ValidID(string(r.Room)) || !ValidID(string(r.From.ID)):
		return nil, fmt.Errorf("encode record: room %q from %q: bad id", r.Room, r.From.ID)
	case r.Key.IsZero():
		return nil, fmt.Errorf("encode record for room %s: no key", r.Room)
	case r.Stamp < 0 || r.Stamp > MaxInt || r.ReplyTo > MaxInt:
		return nil, fmt.Errorf("encode record for room %s: number out of range", r.Room)
	case len(r.Meta) > 0 && !validInside(r.Meta):
		return nil, fmt.Errorf("encode record for room %s: meta is no JSON object", r.Room)
	case r.Told.ID > MaxInt || r.Told.ID != 0 && !ValidID(string(r.Told.Node)):
		return nil, fmt.Errorf("encode record for room %s: bad connection", r.Room)
	}
	value := make([]byte, 0, 192+len(r.Text)+len(r.Text)/8+len(r.From.Name)+len(r.Meta))
	value = append(value, recordMagic, LogVersion)
	value = append(value, `{"kind":"`...)
	value = append(value, r.Kind...)
	value = append(value, `","room":"`...)
	value = append(value, r.Room...)
	value = append(value, `","from":`...)
	value = AppendPerson(value, r.From)
	value = append(value, `,"key":"`...)
	value = r.Key.append(value)
	value = append(value, `","time":`...)
	value = strconv.AppendInt(value, r.Stamp, 10)
	if r.Text != "" {
		value = append(value, `,"text":`...)
		value = AppendString(value, r.Text)
	}
	if r.ReplyTo != 0 {
		value = append(value, `,"reply_to":`...)
		value = strconv.AppendUint(value, uint64(r.ReplyTo), 10)
	}
	if len(r.Meta) > 0 {
		value = append(value, `,"meta":`...)
		value = append(value, r.Meta...)
	}
	if r.Told.ID != 0 {
		value = append(value, `,"told":{"node":"`...)
		value = append(value, r.Told.Node...)
		value = append(value, `","conn":`...)
		value = strconv.AppendUint(value, r.Told.ID, 10)
		value = append(value, '}')
	}
	value = append(value, '}')
	if len(value) > MaxRecordBytes {
		return nil, fmt.Errorf("encode record for room %s: %d bytes", r.Room, len(value))
	}
	return value, nil
}

// DecodeRecord reads a log record's bytes and keeps none of them. What comes of it depends on value, partition and
// partitions alone. The error is, or wraps, ErrUndecodable or ErrNewerVersion.
func DecodeRecord(value []byte, partition int32, partitions int) (Record, error) {
	var r Record
	switch {
	case len(value) > MaxRecordBytes:
		return r, fmt.Errorf("%w: %d bytes", ErrUndecodable, len(value))
	case len(value) < 2 || value[0] != recordMagic || value[1] == 0:
		return r, fmt.Errorf("%w: no record header", ErrUndecodable)
	case value[1] > LogVersion:
		return r, fmt.Errorf("%w: version %d", ErrNewerVersion, value[1])
	}
	if err := r.decode(value[2:]); err != nil {
		return Record{}, fmt.Errorf("%w: %v", ErrUndecodable, err)
	}
	if LaneOf(r.Room).Partition(partitions) != partition {
		return Record{}, fmt.Errorf("%w: room %s does not belong to partition %d", ErrUndecodable, r.Room, partition)
	}
	return r, nil
}

// decoding lends the room for the fields of a record.
var decoding = sync.Pool{New: func() any { return new([32]field) }}

// giveBack ends a loan of decoding. It must not hold on to what was decoded.
func giveBack(fields *[32]field) {
	clear(fields[:])
	decoding.Put(fields)
}

// decode reads a record's JSON: strict as a client's, every field of the right type, unknown fields ignored.
func (r *Record) decode(body []byte) error {
	fields := decoding.Get().(*[32]field)
	defer giveBack(fields)
	o, err := parseObject(body, fields[:0:16]) // behind them are those of "from" and of "told"
	if err != nil {
		return err
	}
	person, _ := o.Raw("from")
	from, err := parseObject(person, fields[16:16:24])
	if err != nil {
		return fmt.Errorf("from: %w", err)
	}
	if kind, _ := o.Raw("kind"); string(kind) != `"message"` {
		return fmt.Errorf("kind %.40q", kind)
	}
	r.Kind = KindMessage
	room, _, errRoom := o.String("room")
	sender, _, errSender := from.String("id")
	name, _, errName := from.String("name")
	guest, _, errGuest := from.Bool("guest")
	text, _, errText := o.String("text")
	stamp, _, errStamp := o.Int("time")
	replyTo, _, errReplyTo := o.Int("reply_to")
	for _, err := range [...]error{errRoom, errSender, errName, errGuest, errText, errStamp, errReplyTo} {
		if err != nil {
			return err
		}
	}
	r.Room, r.From = RoomID(room), Person{ID: UserID(sender), Name: name, Guest: guest}
	r.Text, r.Stamp, r.ReplyTo = text, int64(stamp), Seq(replyTo)
	if !ValidID(string(r.Room)) {
		return errors.New("bad room id")
	}
	if !ValidID(string(r.From.ID)) {
		return errors.New("bad sender id")
	}
	if key, _ := o.Raw("key"); len(key) == keyLen+2 {
		r.Key, _ = parseKey(key[1 : keyLen+1])
	}
	if r.Key.IsZero() {
		return errors.New("no key")
	}
	if meta, ok := o.Raw("meta"); ok {
		if meta[0] != '{' {
			return errors.New("meta is no object")
		}
		r.Meta = bytes.Clone(meta)
	}
	if told, ok := o.Raw("told"); ok {
		r.Told = decodeTold(told, fields[24:24:32])
	}
	return nil
}

// decodeTold reads who is told. What cannot be read is nobody: it must not decide whether a record gets a number.
func decodeTold(body []byte, fields []field) Conn {
	o, err := parseObject(body, fields)
	if err != nil {
		return Conn{}
	}
	node, _, errNode := o.String("node")
	id, _, errID := o.Int("conn")
	if errNode != nil || errID != nil || id == 0 || !ValidID(node) {
		return Conn{}
	}
	return Conn{Node: NodeID(node), ID: id}
}

// HashRecord returns the hash of a log record's bytes.
func HashRecord(value []byte) Hash {
	sum := sha256.Sum256(value)
	return Hash(sum[:16])
}

// AppendEntry appends e as clients get it, live and in replies. Equal entries give equal bytes. A message without a text, which
// nobody can send, is a tombstone.
func AppendEntry(dst []byte, e *Entry) []byte {
	dst = append(dst, `{"event":"`...)
	dst = append(dst, e.Kind...)
	dst = append(dst, `","room":"`...)
	dst = append(dst, e.Room...)
	dst = append(dst, `","seq":`...)
	dst = strconv.AppendUint(dst, uint64(e.Seq), 10)
	dst = append(dst, `,"epoch":`...)
	dst = strconv.AppendUint(dst, uint64(e.Epoch), 10)
	dst = append(dst, `,"time":`...)
	dst = strconv.AppendInt(dst, e.Stamp, 10)
	dst = append(dst, `,"from":`...)
	dst = AppendPerson(dst, e.From)
	dst = append(dst, `,"key":"`...)
	dst = e.Key.append(dst)
	if e.Text == "" && e.Kind == KindMessage {
		dst = append(dst, `","deleted":true`...)
	} else {
		dst = append(dst, `","text":`...)
		dst = AppendString(dst, e.Text)
	}
	if e.ReplyTo != 0 {
		dst = append(dst, `,"reply_to":`...)
		dst = strconv.AppendUint(dst, uint64(e.ReplyTo), 10)
	}
	if len(e.Meta) > 0 {
		dst = append(dst, `,"meta":`...)
		dst = append(dst, e.Meta...)
	}
	return append(dst, '}')
}

// HideEntry returns what AppendEntry made of a message as it is for the tombstone, if the message's time is before then, in
// Unix milliseconds; any other entry as it is.
func HideEntry(entry []byte, then int64) []byte {
	_, rest, found := bytes.Cut(entry, []byte(`,"time":`)) // neither a kind nor a room's id can hold this
	digits, _, ended := bytes.Cut(rest, []byte{','})
	if at, err := strconv.ParseInt(string(digits), 10, 64); !found || !ended || err != nil || at >= then {
		return entry
	}
	var e struct {
		Event Kind  `json:"event"`
		Seq   Seq   `json:"seq"`
		Epoch Epoch `json:"epoch"`
		Record
	}
	if json.Unmarshal(entry, &e) != nil || e.Event != KindMessage {
		return entry
	}
	old := Entry{Record: e.Record, Seq: e.Seq, Epoch: e.Epoch}
	old.Kind = e.Event
	old.Blank()
	return AppendEntry(nil, &old)
}

// AppendPerson appends p as JSON.
func AppendPerson(dst []byte, p Person) []byte {
	dst = append(dst, `{"id":"`...)
	dst = append(dst, p.ID...)
	dst = append(dst, `","name":`...)
	dst = AppendString(dst, p.Name)
	if p.Guest {
		dst = append(dst, `,"guest":true`...)
	}
	return append(dst, '}')
}

const hexDigits = "0123456789abcdef"

// AppendString appends s as a JSON string (RFC 8259 section 7). Bytes that are not UTF-8 become U+FFFD.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(dst, s[start:i]...)
				dst = append(dst, "\uFFFD"...)
				start = i + 1
			}
			i += size
			continue
		}
		if c >= 0x20 && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\t':
			dst = append(dst, '\\', 't')
		case '\r':
			dst = append(dst, '\\', 'r')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// Marshal is json.Marshal without the escapes that are meant for HTML.
func Marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte{'\n'}), nil
}
