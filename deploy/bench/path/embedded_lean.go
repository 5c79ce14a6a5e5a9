//go:build lean

package path

import (
	"context"
	"errors"
)

// Embedded is not to be had in this build.
func Embedded(context.Context) (*world, error) {
	return nil, errors.New("built without embedded servers")
}
