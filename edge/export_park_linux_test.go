package edge

import (
	"time"

	"golang.org/x/sys/unix"
)

// NewParker makes a parker of an epoll instance, which it owns from now on.
func NewParker(epoll int) (wait func(time.Duration) []unix.EpollEvent, wake, closeAll func(), err error) {
	p := &parker{}
	if err := p.init(epoll, 4); err != nil {
		return nil, nil, nil, err
	}
	return p.wait, p.wake, p.close, nil
}
