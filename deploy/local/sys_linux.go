package local

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// bootID tells this boot of the machine from others: start times count from it.
var bootID = sync.OnceValue(func() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "-"
	}
	return strings.TrimSpace(string(id))
})

// setGroup gives the child a process group of its own and has the kernel stop it when the thread that starts it ends.
// The thread must therefore be locked for as long as the child is wanted.
func setGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// startOf returns when a process started, in a form that no other process has had. It fails when there is no such
// process, or only its remains that nobody has waited for.
func startOf(pid int) (string, error) {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", fmt.Errorf("look at process %d: %w", pid, err)
	}
	// proc_pid_stat(5): the command's name, field 2, stands in parentheses and may hold anything.
	end := bytes.LastIndexByte(stat, ')')
	fields := strings.Fields(string(stat[end+1:]))
	if end < 0 || len(fields) < 20 {
		return "", fmt.Errorf("look at process %d: unknown form of its stat file", pid)
	}
	if state := fields[0]; state == "Z" || state == "X" {
		return "", fmt.Errorf("look at process %d: %w", pid, errors.New("it has ended"))
	}
	return fields[19] + "@" + bootID(), nil
}
