//go:build !lean

package embedded

// NewPipe is newPipe.
var NewPipe = newPipe
