//go:build !race

package roomlog_test

const raceEnabled = false
