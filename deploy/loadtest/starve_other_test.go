//go:build !unix

package loadtest_test

func starve() {}
