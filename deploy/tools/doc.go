// Package tools holds no code: its go.mod pins the programs that the Taskfile and CI run, apart from Parley's own
// dependencies. Each is run as
//
//	go tool -modfile=deploy/tools/go.mod task
//	go tool -modfile=deploy/tools/go.mod staticcheck ./...
package tools
