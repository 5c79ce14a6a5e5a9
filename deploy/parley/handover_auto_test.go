package main

import "testing"

func TestTakeOverAutoMeansTheHandoverSocket(t *testing.T) {
	for _, tc := range []struct{ takeOver, handover, want string }{
		{"auto", "/run/parley/edge.sock", "/run/parley/edge.sock"},
		{"auto", "auto", "auto"},
		{"auto", "off", "auto"},
		{"/a.sock", "/b.sock", "/a.sock"},
	} {
		h := &handing{TakeOver: tc.takeOver, Handover: tc.handover}
		if got := h.predecessor(); got != tc.want {
			t.Errorf("--take-over %s --handover %s: %s, want %s", tc.takeOver, tc.handover, got, tc.want)
		}
	}
}
