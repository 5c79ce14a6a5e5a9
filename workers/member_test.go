package workers_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// TestMembershipThatFailsHoldsUpNoOther: neither those that it is written with nor those that come later.
func TestMembershipThatFailsHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := full(t, 5)
		f.joinTime = 10 * time.Millisecond
		f.refused = []contracts.UserID{"u100", "u300"}
		join := func(i int) {
			c := cmd(contracts.OpJoin, `{}`)
			c.User = &contracts.Person{ID: contracts.UserID(fmt.Sprint("u", i)), Name: "x"}
			f.begin(c)
		}
		const people = 600
		for i := range people {
			join(i)
		}
		time.Sleep(15 * time.Second)
		written := func(want int) {
			t.Helper()
			f.set(func() {
				if len(f.joined) != want || f.joined["lobby/u100"]+f.joined["lobby/u300"] != 0 {
					t.Errorf("%d memberships are written, want %d", len(f.joined), want)
				}
			})
		}
		written(people - 2)
		time.Sleep(time.Minute)
		join(people)
		time.Sleep(6 * time.Second) // the longest wait of a writer
		written(people - 1)
		f.set(func() { f.refused = nil })
		time.Sleep(12 * time.Second)
		f.set(func() {
			if len(f.joined) != people+1 {
				t.Errorf("%d memberships are written in the end, want %d", len(f.joined), people+1)
			}
		})
	})
}
