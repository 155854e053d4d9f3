//go:build !linux

package devpg

import "syscall"

// endWithParent does nothing: only Linux signals a child when its parent dies.
func endWithParent(*syscall.SysProcAttr) {}
