//go:build unix && !linux

package local

import (
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// setGroup gives the child a process group of its own.
func setGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
}

// startOf returns when a process started, to the second and with its command: that makes it unique in practice. It
// fails when there is no such process, or only its remains that nobody has waited for.
func startOf(pid int) (string, error) {
	out, err := exec.Command("ps", "-o", "stat=,lstart=,ucomm=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return "", fmt.Errorf("look at process %d: %w", pid, err)
	}
	fields := strings.Fields(string(out))
	if len(fields) < 3 || strings.HasPrefix(fields[0], "Z") {
		return "", fmt.Errorf("look at process %d: it has ended", pid)
	}
	return strings.Join(fields[1:], "_"), nil
}
