package workers

// For tests of the encodings.
var (
	JoinOK       = joinOK
	HistoryOK    = historyOK
	SendOK       = sendOK
	EncodeAnswer = encodeAnswer
)
