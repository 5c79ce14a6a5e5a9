// Command parley is every role of Parley in one binary: `parley dev` runs them all in one process on embedded servers,
// `parley edge`, `worker`, `dispatch` and `persist` run one each on real ones.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/parley-chat/parley/contracts"
)

// commands is the command line, one field per subcommand.
type commands struct {
	Dev      devCmd      `cmd:"" help:"Run everything in this process, on embedded servers where no URL is given."`
	Up       upCmd       `cmd:"" help:"Run real servers and every role as processes of this machine."`
	Down     downCmd     `cmd:"" help:"Stop what up started."`
	Doctor   doctorCmd   `cmd:"" help:"Say what this machine lacks and how to get it."`
	Edge     edgeCmd     `cmd:"" help:"Hold WebSocket connections."`
	Worker   workerCmd   `cmd:"" help:"Decide what clients ask for."`
	Dispatch dispatchCmd `cmd:"" help:"Number the log and tell the rooms."`
	Persist  persistCmd  `cmd:"" help:"Number the log and fill the database."`
	Load     loadCmd     `cmd:"" help:"Load-test a server over the public protocol, and account for every message."`
	Dead     deadCmd     `cmd:"" help:"List the records that nobody could read, or put them into the log again."`
	Chaos    chaosCmd    `cmd:"" help:"Harm an installation of its own in every way, and check every promise."`
	Token    tokenCmd    `cmd:"" help:"Make a token for a user, for tests and scripts."`
	Config   configCmd   `cmd:"" help:"Show every setting, its variables and its value."`
	Ready    readyCmd    `cmd:"" help:"Ask a running process whether it is ready."`
	Version  versionCmd  `cmd:"" help:"Print the version."`

	Print kong.VersionFlag `name:"version" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// streams is where a command writes.
type streams struct {
	out, err io.Writer
}

// errExit ends the process with a code after the command has said everything itself.
type errExit int

func (e errExit) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// run is main without the process around it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var cmds commands
	exited := -1
	parser, err := kong.New(&cmds,
		kong.Name("parley"),
		kong.Description("A chat backend for very many connections. Start with: parley dev"),
		kong.Writers(stdout, stderr),
		kong.Vars(edgeLimitDefaults()),
		kong.Vars{"partitions": strconv.Itoa(contracts.DefaultPartitions), "version": "parley " + version()},
		kong.Exit(func(code int) { exited = code; panic(errExit(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		fmt.Fprintln(stderr, "parley:", err)
		return 2
	}
	parsed, code := parse(parser, args, &exited, stderr)
	if parsed == nil {
		return code
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	parsed.Bind(streams{out: stdout, err: stderr})
	if err := parsed.Run(); err != nil {
		var code errExit
		if errors.As(err, &code) {
			return int(code)
		}
		fmt.Fprintln(stderr, "parley:", err)
		return 1
	}
	return 0
}

// parse returns nil and the exit code where there is nothing to run: help was printed, or the words are wrong.
func parse(parser *kong.Kong, args []string, exited *int, stderr io.Writer) (parsed *kong.Context, code int) {
	defer func() {
		if r := recover(); r != nil {
			if *exited < 0 {
				panic(r)
			}
			parsed, code = nil, *exited
		}
	}()
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintln(stderr, "parley:", err)
		return nil, 2
	}
	return parsed, 0
}

// version is the module's version, or "devel" when built from a checkout.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "0.1.0-devel"
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(s streams) error {
	_, err := fmt.Fprintln(s.out, "parley", version())
	return err
}
