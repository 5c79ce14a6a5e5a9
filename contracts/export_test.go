package contracts

// DecodesAnswer and DecodesCommand report whether encoding/json is not needed for data.
func DecodesAnswer(data []byte) bool { return readInto(new(Answer), data) }

func DecodesCommand(data []byte) bool { return readInto(new(Command), data) }
