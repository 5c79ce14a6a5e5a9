//go:build !unix

package main

// ownDirectory: there is no hand-over here.
func ownDirectory(string) error { return nil }
