package wire

import "github.com/parley-chat/parley/contracts"

// ReaderState is a Reader between two calls of Next, to go on in another process.
type ReaderState struct {
	// Buffered holds the message's fragments so far, unmasked, and behind them an incomplete frame as it came.
	Buffered []byte `json:"buffered,omitempty"`
	// Message is how many bytes of Buffered belong to the message, which came in Fragments frames so far.
	Message   uint32 `json:"message,omitempty"`
	Fragments uint32 `json:"fragments,omitempty"`
	// End is what ended the stream.
	End contracts.CloseCode `json:"end,omitempty"`
}

// State returns the reader's state; Buffered is a copy.
func (r *Reader) State() ReaderState {
	return ReaderState{Buffered: append([]byte(nil), r.buf...), Message: r.message, Fragments: r.fragments, End: r.end}
}

// NewReader returns a reader that goes on from a state, whose Buffered it keeps. ok is false for a state that no reader can be in.
func NewReader(s ReaderState) (r Reader, ok bool) {
	if int64(s.Message) > int64(len(s.Buffered)) {
		return Reader{}, false
	}
	return Reader{buf: s.Buffered, message: s.Message, fragments: s.Fragments, end: s.End}, true
}
