package devpg

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// runs reports whether process pid is a server that works on our cluster.
func (p *place) runs(_ context.Context, pid int) (bool, error) {
	return stillRuns(pid, p.cluster()), nil
}

// stillRuns asks the kernel: the program is a postgres (deleted, perhaps, by an
// upgrade), and its working directory is the cluster, as for every server of
// PostgreSQL. A process that we may not inspect is another user's, a dead one has
// neither, and both are not ours.
func stillRuns(pid int, cluster string) bool {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	exe, err := os.Readlink(filepath.Join(proc, "exe"))
	if err != nil || filepath.Base(strings.TrimSuffix(exe, " (deleted)")) != "postgres" {
		return false
	}
	cwd, err := os.Readlink(filepath.Join(proc, "cwd"))
	return err == nil && cwd == cluster
}
