package contracts_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/parley-chat/parley/contracts"
)

func itoa(n int) string { return strconv.Itoa(n) }

func TestCodes(t *testing.T) {
	tests := []struct {
		code              contracts.Code
		status            int
		retryable, unsure bool
	}{
		{contracts.CodeBadRequest, 400, false, false},
		{contracts.CodeUnknownOp, 400, false, false},
		{contracts.CodeUnauthorized, 401, false, false},
		{contracts.CodeForbidden, 403, false, false},
		{contracts.CodeNotFound, 404, false, false},
		{contracts.CodeConflict, 409, false, false},
		{contracts.CodeTooLarge, 413, false, false},
		{contracts.CodeStaleKey, 410, false, false},
		{contracts.CodeBadKey, 400, false, false},
		{contracts.CodeKeyConflict, 409, false, false},
		{contracts.CodeBadRoom, 400, false, false},
		{contracts.CodeTooManyRooms, 409, false, false},
		{contracts.CodeRateLimited, 429, true, false},
		{contracts.CodeOverloaded, 503, true, false},
		{contracts.CodeUnavailable, 503, true, true},
		{contracts.CodeInternal, 500, true, true},
		{"a_code_of_later", 500, false, false},
	}
	for _, tt := range tests {
		if got := tt.code.HTTPStatus(); got != tt.status {
			t.Errorf("%s has the status %d, want %d", tt.code, got, tt.status)
		}
		if tt.code.Retryable() != tt.retryable || tt.code.Unknown() != tt.unsure {
			t.Errorf("%s: retryable %v, unknown %v", tt.code, tt.code.Retryable(), tt.code.Unknown())
		}
		if got := contracts.NewError(tt.code, "m"); got.Retry != tt.retryable {
			t.Errorf("NewError(%s) has retry %v", tt.code, got.Retry)
		}
	}
}

func TestAsError(t *testing.T) {
	notFound := contracts.NewError(contracts.CodeNotFound, "no such room")
	if got := contracts.AsError(fmt.Errorf("read room: %w", notFound)); got != notFound {
		t.Errorf("a wrapped error becomes %v", got)
	}
	got := contracts.AsError(errors.New("dial tcp 10.0.0.1: secret"))
	want := &contracts.Error{Code: contracts.CodeInternal, Message: "something went wrong on the server", Retry: true}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("another error (-want +got):\n%s", d)
	}
	if !errors.Is(fmt.Errorf("x: %w", notFound), &contracts.Error{Code: contracts.CodeNotFound}) {
		t.Error("errors.Is does not compare by code")
	}
	if errors.Is(notFound, &contracts.Error{Code: contracts.CodeConflict}) {
		t.Error("errors.Is takes one code for another")
	}
}

func TestErrorInJSON(t *testing.T) {
	e := contracts.NewError(contracts.CodeRateLimited, "too many sends").After(500 * time.Millisecond)
	got, err := json.Marshal(e)
	const want = `{"code":"rate_limited","message":"too many sends","retry":true,"retry_after_ms":500}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	got, err = json.Marshal(contracts.BadField("limit", "limit must be an integer"))
	const wantField = `{"code":"bad_request","message":"limit must be an integer","field":"limit"}`
	if err != nil || string(got) != wantField {
		t.Errorf("got %s, %v, want %s", got, err, wantField)
	}
}
