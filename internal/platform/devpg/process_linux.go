package devpg

import "syscall"

// parentDeathSignal is what the kernel sends the child when we die; 0 is none,
// which only the tests use, to make the leftovers other systems know.
var parentDeathSignal = syscall.SIGINT

func endWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = parentDeathSignal }
