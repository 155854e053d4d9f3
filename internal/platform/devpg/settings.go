package devpg

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// serverSettings are the settings of every private PostgreSQL. They are given on
// the command line, which wins over every file and ALTER SYSTEM, so that nothing
// in the cluster can undo them, and a start needs to write no file that belongs
// to the child's user.
//
// The log_* lines keep tenant values out of the log. Terse verbosity alone does
// not: it drops DETAIL (the row of a unique violation, the statement a crashed
// backend was running) and CONTEXT, but the primary message of an ERROR quotes
// values itself (invalid input syntax for type integer: "…"). So ERRORs are not
// logged at all, the service sees them anyway; what remains are the server's own
// messages (LOG) and failed connections or worse (FATAL, PANIC).
var serverSettings = map[string]string{
	"listen_addresses":        "",
	"port":                    socketPort,
	"unix_socket_permissions": "0700",
	"ssl":                     "off",
	"password_encryption":     "scram-sha-256",
	"cluster_name":            "trakr",
	"timezone":                "UTC",

	"logging_collector":                 "off",
	"log_destination":                   "stderr",
	"log_timezone":                      "UTC",
	"log_line_prefix":                   "%m [%p] ",
	"log_min_messages":                  "log",
	"log_min_error_statement":           "panic",
	"log_error_verbosity":               "terse",
	"log_statement":                     "none",
	"log_duration":                      "off",
	"log_min_duration_statement":        "-1",
	"log_min_duration_sample":           "-1",
	"log_transaction_sample_rate":       "0",
	"log_parameter_max_length":          "0",
	"log_parameter_max_length_on_error": "0",
	"log_autovacuum_min_duration":       "-1",
	"log_checkpoints":                   "off",

	// Small, for one service on one machine; Config.Settings may change these.
	"shared_buffers":  "64MB",
	"max_connections": "60",
	"jit":             "off", // short queries only, and slim builds ship without LLVM
}

// promised are the settings a caller may not change, besides log_*: who can
// connect, where the data is, what is written about it.
var promised = []string{
	"cluster_name", "config_file", "data_directory", "external_pid_file", "hba_file", "ident_file",
	"listen_addresses", "local_preload_libraries", "password_encryption", "port", "session_preload_libraries",
	"shared_preload_libraries", "ssl", "timezone", "unix_socket_directories", "unix_socket_group", "unix_socket_permissions",
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// checkSettings reports the settings that have no valid name, or that the caller may not set.
func checkSettings(settings map[string]string) (faults []error) {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		lower := strings.ToLower(name)
		switch {
		case !settingName.MatchString(name):
			faults = append(faults, fmt.Errorf("%q is not the name of a PostgreSQL setting", name))
		case slices.Contains(promised, lower),
			strings.HasPrefix(lower, "log_"), strings.HasPrefix(lower, "logging_"), strings.HasPrefix(lower, "debug_"):
			faults = append(faults, fmt.Errorf("setting %s is fixed for a private PostgreSQL", name))
		case strings.ContainsRune(settings[name], 0):
			faults = append(faults, fmt.Errorf("setting %s contains a NUL byte", name))
		}
	}
	return faults
}

// serverArgs are the arguments of postgres, in a stable order.
func serverArgs(cluster, socketDir string, extra map[string]string) []string {
	all := maps.Clone(serverSettings)
	for name, value := range extra {
		all[strings.ToLower(name)] = value // names do not care about case, maps do
	}
	all["unix_socket_directories"] = socketDir // a list, but see plainPath
	args := []string{"-D", cluster}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		args = append(args, "-c", name+"="+all[name])
	}
	return args
}
