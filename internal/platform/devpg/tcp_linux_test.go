package devpg

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tcpSockets lists the local addresses of a process's TCP and UDP sockets.
func tcpSockets(t *testing.T, pid int) (addresses []string) {
	t.Helper()
	inodes := map[string]bool{}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	must(t, err)
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, "socket:[") {
			inodes[strings.Trim(target, "socket:[]")] = true
		}
	}
	if len(inodes) == 0 {
		t.Fatal("the server has no socket at all; the test cannot see")
	}
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		text, err := os.ReadFile("/proc/net/" + table)
		if err != nil {
			continue // no IPv6
		}
		for line := range strings.Lines(string(text)) {
			if fields := strings.Fields(line); len(fields) > 9 && inodes[fields[9]] {
				addresses = append(addresses, table+" "+fields[1])
			}
		}
	}
	return addresses
}
