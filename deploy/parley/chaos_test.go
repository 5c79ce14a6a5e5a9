package main

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
	"time"
)

// TestSecondSignal: one signal leaves the run to end in order, the second breaks it off.
func TestSecondSignal(t *testing.T) {
	heard := make(chan os.Signal, 2)
	signal.Notify(heard, syscall.SIGTERM)
	defer signal.Stop(heard)
	second, stop := secondSignal()
	defer stop()
	send := func() {
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Signal(syscall.SIGTERM)
		}
		if err != nil {
			t.Skip("a process cannot signal itself here:", err)
		}
		<-heard
	}
	send()
	select {
	case <-second:
		t.Fatal("broken off by the first signal")
	default:
	}
	send()
	select {
	case <-second:
	case <-time.After(patience):
		t.Fatal("not broken off by the second signal")
	}
}
