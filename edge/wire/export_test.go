package wire

// Cap is the size of the reader's buffer.
func (r *Reader) Cap() int { return cap(r.buf) }
