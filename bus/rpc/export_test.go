package rpc

// Bundles gives tests the gathering of answers: add takes one for a reply subject, flush sends what is ready.
func Bundles(send func(subject string, body []byte) error) (add func(reply string, answer []byte) bool, flush func()) {
	b := newBundles(send)
	return func(reply string, answer []byte) bool {
		to, id, ok := bundled(reply)
		if ok {
			b.add(&endpoint{}, to, id, answer)
		}
		return ok
	}, b.flush
}

// Unbundle reads a bundle.
func Unbundle(body []byte, take func(id uint64, answer []byte, served bool)) error {
	return unbundle(body, take)
}

// Ungather reads a message of questions.
func Ungather(body []byte, take func(id uint64, subject string, question []byte)) error {
	return ungather(body, take)
}
