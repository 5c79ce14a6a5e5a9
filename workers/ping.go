package workers

import (
	"context"
	"time"

	"github.com/parley-chat/parley/contracts"
)

// ping tells the server's time.
func (w *Worker) ping(context.Context, *request) (contracts.Answer, error) {
	return ok(struct {
		Time int64 `json:"time"`
	}{contracts.Millis(time.Now())})
}
