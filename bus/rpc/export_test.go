package rpc

// Bundles gives tests the gathering of answers.
type Bundles struct {
	b *bundles
	e endpoint
}

// NewBundles starts one that sends by itself only what is large.
func NewBundles(send func(subject string, body []byte) error) *Bundles {
	return &Bundles{b: newBundles(send, func() int { return 1 << 20 })}
}

// Add takes an answer for a reply subject.
func (b *Bundles) Add(reply string, answer []byte) bool {
	to, id, ok := bundled(reply)
	if ok {
		b.b.add(&b.e, to, id, answer)
	}
	return ok
}

// Flush sends what is ready.
func (b *Bundles) Flush() { b.b.flush() }

// Stop sends what is ready, and no more.
func (b *Bundles) Stop() {
	close(b.b.done)
	b.b.stop()
}

// Failed is how many answers could not be sent.
func (b *Bundles) Failed() int64 { return b.e.refused.Load() }

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
