package contracts

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
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

// EncodeRecord returns r as a log record's bytes.
func EncodeRecord(r *Record) ([]byte, error) {
	body, err := Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record for room %s: %w", r.Room, err)
	}
	value := make([]byte, 0, len(body)+2)
	value = append(value, recordMagic, LogVersion)
	return append(value, body...), nil
}

// DecodeRecord reads a log record's bytes. What comes of it depends on value, partition and partitions alone. The
// error is, or wraps, ErrUndecodable or ErrNewerVersion.
func DecodeRecord(value []byte, partition int32, partitions int) (Record, error) {
	var r Record
	switch {
	case len(value) > MaxRecordBytes:
		return r, fmt.Errorf("%w: %d bytes", ErrUndecodable, len(value))
	case len(value) < 2 || value[0] != recordMagic || value[1] == 0:
		return r, fmt.Errorf("%w: no record header", ErrUndecodable)
	case value[1] > LogVersion:
		return r, fmt.Errorf("%w: version %d", ErrNewerVersion, value[1])
	case !utf8.Valid(value[2:]):
		return r, fmt.Errorf("%w: not UTF-8", ErrUndecodable)
	}
	if err := json.Unmarshal(value[2:], &r); err != nil {
		return r, fmt.Errorf("%w: %v", ErrUndecodable, err)
	}
	switch {
	case r.Kind != KindMessage:
		return r, fmt.Errorf("%w: kind %q", ErrUndecodable, r.Kind)
	case !ValidID(string(r.Room)):
		return r, fmt.Errorf("%w: bad room id", ErrUndecodable)
	case !ValidID(string(r.From.ID)):
		return r, fmt.Errorf("%w: bad sender id", ErrUndecodable)
	case r.Key.IsZero():
		return r, fmt.Errorf("%w: no key", ErrUndecodable)
	case r.Stamp < 0 || r.Stamp > MaxInt || r.ReplyTo > MaxInt:
		return r, fmt.Errorf("%w: number out of range", ErrUndecodable)
	case LaneOf(r.Room).Partition(partitions) != partition:
		return r, fmt.Errorf("%w: room %s does not belong to partition %d", ErrUndecodable, r.Room, partition)
	}
	return r, nil
}

// HashRecord returns the hash of a log record's bytes.
func HashRecord(value []byte) Hash {
	sum := sha256.Sum256(value)
	return Hash(sum[:16])
}

// AppendEntry appends e as clients get it, live and in replies. Equal entries give equal bytes.
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
	dst = append(dst, e.Key.String()...)
	dst = append(dst, `","text":`...)
	dst = AppendString(dst, e.Text)
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
