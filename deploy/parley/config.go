package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"
)

type configCmd struct {
	Role string `arg:"" optional:"" default:"dev" enum:"dev,edge,worker,dispatch,persist" help:"Whose settings: dev, edge, worker, dispatch or persist. Defaults to dev."`
}

// Run prints the role's settings: flag, variables, and the value they have now; what a role would work out is marked as
// such. Secrets are not shown.
func (c *configCmd) Run(k *kong.Kong, cmds *commands, s streams) error {
	var computed map[string]string
	switch c.Role {
	case "dev":
		computed = cmds.Dev.clients.computed()
	case "edge":
		computed = cmds.Edge.clients.computed()
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "FLAG\tVARIABLES\tVALUE\tMEANING")
	for _, node := range k.Model.Children {
		if node.Name != c.Role {
			continue
		}
		for _, f := range node.Flags {
			value := f.Default
			for _, env := range f.Envs {
				if v, ok := os.LookupEnv(env); ok {
					value = v
					break
				}
			}
			if at, ok := computed[f.Name]; ok && f.Target.IsZero() {
				value = at + " (computed)"
			}
			if value != "" && (f.Name == "secret" || strings.Contains(f.Name, "password") || strings.HasSuffix(f.Name, "uri") || strings.HasSuffix(f.Name, "url")) {
				value = "(set)"
			}
			fmt.Fprintf(w, "--%s\t%s\t%s\t%s\n", f.Name, strings.Join(f.Envs, " "), value, f.Help)
		}
	}
	return w.Flush()
}
