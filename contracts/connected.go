package contracts

import (
	"math"
	"strconv"
)

// What a connect's answer holds, read and written without reflection: an edge does both for each connection.

func (c *Connected) take(r *reader, name []byte) bool {
	switch string(name) {
	case "user":
		return r.object(&c.User)
	case "expires":
		return readInt(r, &c.Expires)
	case "ok":
		if c.OK == nil {
			c.OK = new(ConnectOK)
			return r.object(c.OK)
		}
	}
	return false
}

func (c *ConnectOK) take(r *reader, name []byte) bool {
	switch string(name) {
	case "user":
		return r.object(&c.User)
	case "token":
		return readString(r, &c.Token)
	case "expires":
		return readInt(r, &c.Expires)
	case "expires_in_ms":
		return readInt(r, &c.ExpiresInMS)
	case "session":
		return readString(r, &c.Session)
	case "time":
		return readInt(r, &c.Time)
	case "ping":
		return readInt(r, &c.Ping)
	case "limits":
		return r.object(&c.Limits)
	case "durability":
		return readString(r, &c.Durability)
	case "server":
		return r.object(&c.Server)
	}
	return false
}

func (s *Server) take(r *reader, name []byte) bool {
	switch string(name) {
	case "name":
		return readString(r, &s.Name)
	case "version":
		return readString(r, &s.Version)
	case "node":
		return readString(r, &s.Node)
	}
	return false
}

func (l *Limits) take(r *reader, name []byte) bool {
	switch string(name) {
	case "text_bytes":
		return readInt(r, &l.TextBytes)
	case "text_runes":
		return readInt(r, &l.TextRunes)
	case "frame_bytes":
		return readInt(r, &l.FrameBytes)
	case "meta_bytes":
		return readInt(r, &l.MetaBytes)
	case "reply_bytes":
		return readInt(r, &l.ReplyBytes)
	case "page":
		return readInt(r, &l.Page)
	case "resume_entries":
		return readInt(r, &l.ResumeEntries)
	case "rooms":
		return readInt(r, &l.Rooms)
	case "sends_per_s":
		return r.floatInto(&l.SendsPerS)
	case "frames_per_s":
		return r.floatInto(&l.FramesPerS)
	case "key_age_ms":
		return readInt(r, &l.KeyAgeMS)
	}
	return false
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
