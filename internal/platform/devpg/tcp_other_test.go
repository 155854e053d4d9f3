//go:build !linux

package devpg

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

// tcpSockets lists a process's internet sockets.
func tcpSockets(t *testing.T, pid int) []string {
	t.Helper()
	out, _ := exec.Command("lsof", "-nP", "-a", "-i", "-p", strconv.Itoa(pid)).Output() // 1 when there are none
	return strings.Fields(string(out))
}
