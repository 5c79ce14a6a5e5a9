package contracts

// DecodesAnswer and DecodesCommand report whether encoding/json is not needed for data.
func DecodesAnswer(data []byte) bool { return new(Answer).decode(data, nil, true) }

func DecodesCommand(data []byte) bool { return new(Command).decode(data) }
