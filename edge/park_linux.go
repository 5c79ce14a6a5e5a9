package edge

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What a loop calls of the kernel never blocks, so it is called without telling Go's scheduler (RawSyscall), and the loop
// waits as every goroutine does that reads a socket. Waiting inside a system call would cost more than the rest of a
// round: the runtime's monitor looks every few 10 µs after processors that are in one, takes them away and wakes a thread for
// them, and the loop has to get one back.

// parker waits for an epoll instance in the runtime's own poller, which takes one as it takes a socket. It belongs to one goroutine.
type parker struct {
	fd     int
	file   *os.File // owns fd
	raw    syscall.RawConn
	events []unix.EpollEvent
	got    int                // events that the last poll took
	poll   func(uintptr) bool // takes what events there are and reports whether there are any
	until  time.Time          // file's deadline, unless wake has moved it
	parked atomic.Bool        // the goroutine waits, or is about to
	woken  atomic.Bool        // it is not to wait
}

// init takes over fd, the descriptor of an epoll instance.
func (p *parker) init(fd, most int) (err error) {
	p.fd, p.events = fd, make([]unix.EpollEvent, most)
	p.poll = func(uintptr) bool {
		p.got = rawPoll(p.fd, p.events)
		return p.got > 0
	}
	if err := unix.SetNonblock(fd, true); err != nil { // for NewFile, which takes only such descriptors for ones that can be waited for
		_ = unix.Close(fd)
		return fmt.Errorf("prepare an epoll instance: %w", err)
	}
	p.file = os.NewFile(uintptr(fd), "epoll")
	if p.raw, err = p.file.SyscallConn(); err == nil {
		err = p.file.SetReadDeadline(time.Time{})
	}
	if err != nil {
		p.close()
		return fmt.Errorf("wait for an epoll instance: %w", err)
	}
	return nil
}

func (p *parker) close() { _ = p.file.Close() }

// wait returns the events there are, or waits for some, until d has passed, wake was called, or earlier. The result is
// valid until the next call.
func (p *parker) wait(d time.Duration) []unix.EpollEvent {
	if d <= 0 {
		p.poll(0)
		return p.events[:p.got]
	}
	// A deadline costs something to set, so one that is earlier stays.
	if now := time.Now(); !p.until.After(now) || p.until.After(now.Add(d)) {
		p.until = now.Add(d)
		_ = p.file.SetReadDeadline(p.until)
	}
	p.parked.Store(true)
	// Either woken is seen here, or parked by wake, which then ends the waiting.
	quiet := p.woken.Load() || p.raw.Read(p.poll) != nil
	p.parked.Store(false)
	if quiet {
		p.until = time.Time{} // it has passed, or wake may have moved it
		p.woken.Store(false)
		p.poll(0)
	}
	return p.events[:p.got]
}

// wake makes wait return, this time or the next; it may be called from any goroutine and never blocks. It lets the
// deadline pass, for which the kernel need not be asked: an eventfd costs a system call, and hands the loop to whichever
// thread waits for descriptors.
func (p *parker) wake() {
	p.woken.Store(true)
	if p.parked.Load() {
		_ = p.file.SetReadDeadline(past)
	}
}

var past = time.Unix(1, 0)

func rawPoll(fd int, events []unix.EpollEvent) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(fd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if errno != 0 {
		return 0 // EINTR
	}
	return int(n)
}

func rawControl(epoll, op, fd int, ev *unix.EpollEvent) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(epoll), uintptr(op), uintptr(fd), uintptr(unsafe.Pointer(ev)), 0, 0)
	return errno
}

// rawAccept is accept4 without the peer's address, which unix.Accept4 asks the kernel about twice.
func rawAccept(listen int) (fd int, errno unix.Errno) {
	r, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listen), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	return int(r), errno
}

// rawReceive and rawSend ask a socket itself: read and write go through the file in front of it, and each would touch
// the file's and the inode's memory, which is in no cache with ten thousand connections.

func rawReceive(fd int, b []byte) (n int, errno unix.Errno) {
	r, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0, 0)
	return int(r), errno
}

func rawSend(fd int, b []byte) (n int, errno unix.Errno) {
	r, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), unix.MSG_NOSIGNAL, 0, 0)
	return int(r), errno
}
