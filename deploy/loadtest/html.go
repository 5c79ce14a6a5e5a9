package loadtest

func (r Report) WriteHTML(file string) error { return nil }
