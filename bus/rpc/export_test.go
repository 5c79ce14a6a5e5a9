package rpc

// Bundles gives tests the gathering of answers: add takes one for a reply subject, flush sends what is ready.
func Bundles(send func(subject string, body []byte) error) (add func(reply string, answer []byte) bool, flush func()) {
	b := newBundles(send, func() int { return 1 << 20 })
	return func(reply string, answer []byte) bool {
		to, id, ok := bundled(reply)
		if ok {
			b.add(&endpoint{}, to, id, answer)
		}
		return ok
	}, b.flush
}

// Gathers reports whether somebody serves a Gathered subject, as far as is known.
func (n *NATS) Gathers(to string) bool { return n.gathers(to, n.gathering(to)) }

// ForgetLimit makes n take the broker's limit for a megabyte.
func (n *NATS) ForgetLimit() { n.maxPayload.Store(1 << 20) }

// Unbundle reads a bundle.
func Unbundle(body []byte, take func(id uint64, answer []byte, served bool)) error {
	return unbundle(body, take)
}

// Ungather reads a message of questions.
func Ungather(body []byte, take func(id uint64, subject string, question []byte)) error {
	return ungather(body, take)
}
