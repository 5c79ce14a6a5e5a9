package local

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"
)

// actVariable makes the test binary play a process: a role, or a server that does not come up.
const actVariable = "PARLEY_LOCAL_TEST_ACT"

func TestMain(m *testing.M) {
	if act := os.Getenv(actVariable); act != "" {
		os.Exit(play(act))
	}
	goleak.VerifyTestMain(m)
}

// play returns an exit code.
func play(act string) int {
	stop := make(chan os.Signal, 1)
	switch act {
	case "fail":
		fmt.Println("cannot find what is needed")
		return 3
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("on")
		select {}
	case "role":
		signal.Notify(stop, syscall.SIGTERM)
		ln, err := net.Listen("tcp", os.Getenv("PARLEY_OPS"))
		if err != nil {
			fmt.Println(err)
			return 1
		}
		fmt.Println("node", os.Getenv("PARLEY_NODE"), "nats", os.Getenv("PARLEY_NATS_URL"), "port", os.Getenv("PORT"), "role", os.Args[1])
		http.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ready") })
		go func() { _ = http.Serve(ln, nil) }()
		<-stop
		fmt.Println("stopping")
		return 0
	}
	return 2
}
