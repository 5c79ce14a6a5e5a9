package contracts

import (
	"math"
	"strconv"
)

// What a connect's answer holds, read and written without reflection: an edge does both for each connection.

// decodeFields reads an object and hands each field over, with what is left of the room for fields inside it. It is
// false where take is, or data is no object.
func decodeFields(data []byte, fields []field, take func(f *field, inner []field) bool) bool {
	if data[0] != '{' {
		return false
	}
	o, err := parseObject(data, fields)
	if err != nil {
		return false
	}
	inner := o.fields[len(o.fields):]
	for i := range o.fields {
		if !take(&o.fields[i], inner) {
			return false
		}
	}
	return true
}

func (c *Connected) decode(data []byte, fields []field) bool {
	return decodeFields(data, fields, func(f *field, inner []field) bool {
		switch string(f.name) {
		case "user":
			return c.User.decode(f.raw, inner)
		case "expires":
			return intInto(&c.Expires, f.raw)
		case "ok":
			c.OK = new(ConnectOK)
			return c.OK.decode(f.raw, inner)
		}
		return false
	})
}

func (c *ConnectOK) decode(data []byte, fields []field) bool {
	return decodeFields(data, fields, func(f *field, inner []field) bool {
		switch string(f.name) {
		case "user":
			return c.User.decode(f.raw, inner)
		case "token":
			return stringInto(&c.Token, f.raw)
		case "expires":
			return intInto(&c.Expires, f.raw)
		case "expires_in_ms":
			return intInto(&c.ExpiresInMS, f.raw)
		case "session":
			return stringInto(&c.Session, f.raw)
		case "time":
			return intInto(&c.Time, f.raw)
		case "ping":
			return intInto(&c.Ping, f.raw)
		case "limits":
			return c.Limits.decode(f.raw, inner)
		case "durability":
			return stringInto(&c.Durability, f.raw)
		case "server":
			return c.Server.decode(f.raw, inner)
		}
		return false
	})
}

func (s *Server) decode(data []byte, fields []field) bool {
	return decodeFields(data, fields, func(f *field, _ []field) bool {
		switch string(f.name) {
		case "name":
			return stringInto(&s.Name, f.raw)
		case "version":
			return stringInto(&s.Version, f.raw)
		case "node":
			return stringInto(&s.Node, f.raw)
		}
		return false
	})
}

func (l *Limits) decode(data []byte, fields []field) bool {
	return decodeFields(data, fields, func(f *field, _ []field) bool {
		switch string(f.name) {
		case "text_bytes":
			return intInto(&l.TextBytes, f.raw)
		case "text_runes":
			return intInto(&l.TextRunes, f.raw)
		case "frame_bytes":
			return intInto(&l.FrameBytes, f.raw)
		case "meta_bytes":
			return intInto(&l.MetaBytes, f.raw)
		case "reply_bytes":
			return intInto(&l.ReplyBytes, f.raw)
		case "page":
			return intInto(&l.Page, f.raw)
		case "resume_entries":
			return intInto(&l.ResumeEntries, f.raw)
		case "rooms":
			return intInto(&l.Rooms, f.raw)
		case "sends_per_s":
			return floatInto(&l.SendsPerS, f.raw)
		case "frames_per_s":
			return floatInto(&l.FramesPerS, f.raw)
		case "key_age_ms":
			return intInto(&l.KeyAgeMS, f.raw)
		}
		return false
	})
}

func intInto[T ~int | ~int64](to *T, raw []byte) bool {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	*to = T(n)
	return err == nil && int64(*to) == n
}

func floatInto(to *float64, raw []byte) bool {
	n, err := strconv.ParseFloat(string(raw), 64)
	*to = n
	return err == nil
}

// AppendConnected appends the JSON of c.
func AppendConnected(dst []byte, c *Connected) []byte {
	dst = append(dst, `{"user":`...)
	dst = AppendPerson(dst, c.User)
	dst = append(dst, `,"expires":`...)
	dst = strconv.AppendInt(dst, c.Expires, 10)
	if c.OK != nil {
		dst = append(dst, `,"ok":`...)
		dst = AppendConnectOK(dst, c.OK)
	}
	return append(dst, '}')
}

// AppendConnectOK appends the JSON of c.
func AppendConnectOK(dst []byte, c *ConnectOK) []byte {
	dst = append(dst, `{"user":`...)
	dst = AppendPerson(dst, c.User)
	if c.Token != "" {
		dst = append(dst, `,"token":`...)
		dst = AppendString(dst, c.Token)
	}
	dst = append(dst, `,"expires":`...)
	dst = strconv.AppendInt(dst, c.Expires, 10)
	dst = append(dst, `,"expires_in_ms":`...)
	dst = strconv.AppendInt(dst, c.ExpiresInMS, 10)
	dst = append(dst, `,"session":`...)
	dst = AppendString(dst, c.Session)
	dst = append(dst, `,"time":`...)
	dst = strconv.AppendInt(dst, c.Time, 10)
	dst = append(dst, `,"ping":`...)
	dst = strconv.AppendInt(dst, int64(c.Ping), 10)
	dst = append(dst, `,"limits":`...)
	dst = c.Limits.append(dst)
	dst = append(dst, `,"durability":`...)
	dst = AppendString(dst, c.Durability)
	dst = append(dst, `,"server":{"name":`...)
	dst = AppendString(dst, c.Server.Name)
	dst = append(dst, `,"version":`...)
	dst = AppendString(dst, c.Server.Version)
	dst = append(dst, `,"node":`...)
	dst = AppendString(dst, string(c.Server.Node))
	return append(dst, "}}"...)
}

func (l *Limits) append(dst []byte) []byte {
	start := len(dst)
	number := func(name string, n float64) {
		if n == 0 {
			return
		}
		dst = append(append(append(dst, `,"`...), name...), `":`...)
		if n == math.Trunc(n) && math.Abs(n) < MaxInt {
			dst = strconv.AppendInt(dst, int64(n), 10)
		} else {
			dst = strconv.AppendFloat(dst, n, 'g', -1, 64)
		}
	}
	number("text_bytes", float64(l.TextBytes))
	number("text_runes", float64(l.TextRunes))
	number("frame_bytes", float64(l.FrameBytes))
	number("meta_bytes", float64(l.MetaBytes))
	number("reply_bytes", float64(l.ReplyBytes))
	number("page", float64(l.Page))
	number("resume_entries", float64(l.ResumeEntries))
	number("rooms", float64(l.Rooms))
	number("sends_per_s", l.SendsPerS)
	number("frames_per_s", l.FramesPerS)
	number("key_age_ms", float64(l.KeyAgeMS))
	if len(dst) == start {
		return append(dst, "{}"...)
	}
	dst[start] = '{'
	return append(dst, '}')
}
