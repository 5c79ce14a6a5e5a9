package edge_test

import (
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/parley-chat/parley/edge"
)

// A loop that waits is told of what happens, of what happened before, and of its deadline, however often and in whichever order.
func TestParker(t *testing.T) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(bell) }()
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET&0xffffffff, Fd: 7}); err != nil {
		t.Fatal(err)
	}
	wait, wake, closeAll, err := edge.NewParker(epoll)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	ring := func() {
		if _, err := unix.Write(bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
			t.Error(err)
		}
	}
	for range 3 {
		if got := wait(0); len(got) != 0 {
			t.Errorf("events %v where nothing happened", got)
		}
		began := time.Now()
		if got := wait(20 * time.Millisecond); len(got) != 0 || time.Since(began) < 20*time.Millisecond {
			t.Errorf("events %v after %v, want none after 20ms", got, time.Since(began))
		}
		ring()
		if got := wait(time.Hour); len(got) != 1 || got[0].Fd != 7 {
			t.Errorf("events %v, want the one that came before the wait", got)
		}
		go ring()
		if got := wait(time.Hour); len(got) != 1 || got[0].Fd != 7 {
			t.Errorf("events %v, want the one that came during the wait", got)
		}
		wake()
		if got := wait(time.Hour); len(got) != 0 {
			t.Errorf("events %v, woken before the wait", got)
		}
		go wake()
		if got := wait(time.Hour); len(got) != 0 {
			t.Errorf("events %v, woken during the wait", got)
		}
		began = time.Now()
		for time.Since(began) < 20*time.Millisecond { // the hour must not stay
			if got := wait(20 * time.Millisecond); len(got) != 0 {
				t.Errorf("events %v where nothing happened", got)
			}
		}
		if since := time.Since(began); since > patience {
			t.Errorf("waited for %v, want 20ms", since)
		}
	}
}

// No wake is lost, whether it comes before the wait, while it begins or during it: who says something and wakes is heard.
func TestParkerHearsEveryWake(t *testing.T) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	wait, wake, closeAll, err := edge.NewParker(epoll)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	const n = 20_000
	var said, heard atomic.Int64
	turn := make(chan struct{}, 1)
	go func() {
		for range n {
			said.Add(1)
			wake()
			<-turn
		}
	}()
	for heard.Load() < n {
		began := time.Now()
		if wait(time.Minute); time.Since(began) > 30*time.Second {
			t.Fatal("a wake was lost")
		}
		if said.Load() > heard.Load() {
			heard.Store(said.Load())
			turn <- struct{}{}
		}
	}
}
