package rpc_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/bus/rpc"
)

// Answers that are ready together are one message for each asker; a large bundle does not wait.
func TestBundles(t *testing.T) {
	var sent []string
	b := rpc.NewBundles(func(subject string, body []byte) error {
		one := subject
		if err := rpc.Unbundle(body, func(id uint64, answer []byte, _ bool) { one += fmt.Sprintf(" %d:%.5s", id, answer) }); err != nil {
			t.Error(err)
		}
		sent = append(sent, one)
		return nil
	})
	wantSent := func(want ...string) {
		t.Helper()
		slices.Sort(sent)
		if diff := cmp.Diff(want, sent); diff != "" {
			t.Error(diff)
		}
		sent = nil
	}
	b.Add("_INBOX.a.-1", []byte("one"))
	b.Add("_INBOX.b.-1", []byte("other"))
	b.Add("_INBOX.a.-z", nil)
	wantSent()
	b.Flush()
	wantSent("_INBOX.a.- 1:one 35:", "_INBOX.b.- 1:other")
	b.Flush()
	wantSent()
	for i := range 3 {
		b.Add(fmt.Sprintf("_INBOX.a.-%d", i), bytes.Repeat([]byte("long "), 2500))
	}
	wantSent("_INBOX.a.- 0:long  1:long  2:long ")
	for _, reply := range []string{"_INBOX.a.1", "_INBOX.a.-", "_INBOX.a.-?", "reply", ""} {
		if b.Add(reply, nil) {
			t.Errorf("the asker of %q was taken for one of bundles", reply)
		}
	}
	b.Add("_INBOX.a.-2", []byte("ready"))
	b.Stop()
	wantSent("_INBOX.a.- 2:ready")
	b.Add("_INBOX.a.-3", []byte("late"))
	b.Flush()
	if wantSent(); b.Failed() != 1 {
		t.Errorf("%d answers failed, want the one behind the end", b.Failed())
	}
}

func FuzzUnbundle(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{2, 3, 'o', 'n', 'e', 71, 0})
	f.Add([]byte{1, 4, 'o', 'n', 'e'})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, body []byte) {
		size := 0
		_ = rpc.Unbundle(body, func(_ uint64, answer []byte, _ bool) { size += len(answer) + 2 })
		if size > len(body) {
			t.Errorf("%d bytes out of %d", size, len(body))
		}
	})
}
