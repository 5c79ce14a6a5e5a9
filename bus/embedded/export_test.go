//go:build !lean

package embedded

// For tests of what the brokers' connections are made of.
var (
	NewPipe = newPipe
	Accept  = accept
)
