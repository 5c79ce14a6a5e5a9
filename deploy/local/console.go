package local

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"sync"
)

// maxLine is where a line of a role's log that has no end yet is shown anyway.
const maxLine = 64 << 10

// console writes whole lines, each after the name of the process it is about. It is safe for concurrent use.
type console struct {
	color bool

	mu sync.Mutex // guards w
	w  io.Writer
}

func (c *console) line(name, format string, args ...any) { c.text(name, fmt.Sprintf(format, args...)) }

func (c *console) text(name, text string) {
	prefix := fmt.Sprintf("%-12s", name)
	if c.color {
		h := fnv.New32a()
		_, _ = h.Write([]byte(name))
		prefix = fmt.Sprintf("\x1b[%dm%s\x1b[0m", 31+h.Sum32()%6, prefix)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = fmt.Fprintf(c.w, "%s %s\n", prefix, text) // a console that is gone must not stop the servers
}

// follower passes a process's output to its log file and, line by line, to the console. One goroutine writes to it.
type follower struct {
	name string
	file *os.File
	con  *console
	part []byte // of a line whose end has not come
}

// Write never fails: a full disk must not look like a closed pipe to the process.
func (f *follower) Write(p []byte) (int, error) {
	_, _ = f.file.Write(p)
	f.part = append(f.part, p...)
	for {
		i := bytes.IndexByte(f.part, '\n')
		if i < 0 && len(f.part) < maxLine {
			return len(p), nil
		}
		if i < 0 {
			i = len(f.part) - 1
		}
		f.con.text(f.name, string(bytes.TrimRight(f.part[:i+1], "\r\n")))
		f.part = f.part[i+1:]
	}
}
