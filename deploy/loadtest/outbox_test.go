package loadtest

import "testing"

// TestEchoOrder: what decides is the order of the seqs, not that of the arrivals.
func TestEchoOrder(t *testing.T) {
	type echo struct {
		n    uint32
		seq  uint64
		want verdict
	}
	tests := map[string][]echo{
		"in order":                      {{1, 5, inOrder}, {2, 6, inOrder}},
		"late behind a gap":             {{2, 6, inOrder}, {1, 5, inOrder}},
		"numbered the wrong way":        {{1, 6, inOrder}, {2, 5, late}},
		"numbered the wrong way, later": {{2, 5, inOrder}, {1, 6, late}},
		"twice":                         {{1, 5, inOrder}, {1, 7, doubled}},
	}
	for name, echoes := range tests {
		var o outbox
		o.add(0)
		o.add(0)
		for i, e := range echoes {
			if got := o.echo(e.n, e.seq); got != e.want {
				t.Errorf("%s: echo %d gives %v, want %v", name, i, got, e.want)
			}
		}
	}
}
