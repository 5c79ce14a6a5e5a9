// Package bustest holds the conformance suites of the bus: every adapter passes them on its embedded server and on the
// real one. It also holds wrappers that misbehave on purpose (Slow, Lossy, Twice), for the tests of whoever uses the bus, and
// what those tests have in common: how long they wait, how they judge what is to come at once, and where they log.
package bustest
