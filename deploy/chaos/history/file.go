package history

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
)

// Ext is the extension of history files.
const Ext = ".jsonl"

// maxLine bounds one line; a join's reply is the longest.
const maxLine = 4 << 20

// Writer writes events to one file. It is safe for concurrent use; lines are written in the order of the calls.
type Writer struct {
	mu  sync.Mutex // guards all below
	out *bufio.Writer
	enc *json.Encoder
	err error
}

// NewWriter returns a Writer to out, which the caller closes after Flush.
func NewWriter(out io.Writer) *Writer {
	w := &Writer{out: bufio.NewWriterSize(out, 64<<10)}
	w.enc = json.NewEncoder(w.out)
	w.enc.SetEscapeHTML(false)
	return w
}

// Add writes e. An error shows at Flush.
func (w *Writer) Add(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = w.enc.Encode(&e)
	}
}

// Flush hands everything to the file and returns the first error of all writes. A recorder that may be killed calls it
// about once a second.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = w.out.Flush()
	}
	if w.err != nil {
		return fmt.Errorf("write history: %w", w.err)
	}
	return nil
}

// Read calls add for every event of r, in order; name stands in Source. A last line without a line feed was cut off when
// its writer was killed and is left out.
func Read(name string, r io.Reader, add func(Event)) error {
	in := bufio.NewReaderSize(r, 256<<10)
	for n := 1; ; n++ {
		line, err := readLine(in)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read history %s:%d: %w", name, n, err)
		case len(bytes.TrimSpace(line)) == 0:
			continue
		}
		e := Event{Source: name + ":" + strconv.Itoa(n)}
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("read history %s:%d: %w", name, n, err)
		}
		add(e)
	}
}

func readLine(in *bufio.Reader) ([]byte, error) {
	var whole []byte
	for {
		part, err := in.ReadSlice('\n')
		if err == nil && whole == nil {
			return part, nil
		}
		whole = append(whole, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return whole, err
		}
		if len(whole) > maxLine {
			return nil, errors.New("line too long")
		}
	}
}

// ReadDir reads every history file of a folder, in the order of their names.
func ReadDir(dir string, add func(Event)) error {
	files, err := filepath.Glob(filepath.Join(dir, "*"+Ext))
	if err != nil {
		return fmt.Errorf("read history: %w", err)
	}
	if len(files) == 0 {
		return fmt.Errorf("read history: no *%s in %s", Ext, dir)
	}
	slices.Sort(files)
	for _, file := range files {
		if err := readFile(file, add); err != nil {
			return err
		}
	}
	return nil
}

func readFile(file string, add func(Event)) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("read history: %w", err)
	}
	defer f.Close()
	return Read(filepath.Base(file), f, add)
}
