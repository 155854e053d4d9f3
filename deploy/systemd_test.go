package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// directives of systemd 247 that the unit may use, by section. A name that is not
// here is a slip, or needs a newer systemd than the unit says.
var directives = map[string][]string{
	"Unit": {"Description", "Wants", "After", "StartLimitIntervalSec", "StartLimitBurst"},
	"Service": {"Type", "User", "Group", "Environment", "EnvironmentFile", "LoadCredential", "ExecStartPre", "ExecStart",
		"Restart", "RestartSec", "RestartPreventExitStatus", "TimeoutStopSec", "KillMode",
		"StateDirectory", "StateDirectoryMode", "RuntimeDirectory", "RuntimeDirectoryMode", "UMask",
		"ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices", "DevicePolicy", "ProtectProc",
		"CapabilityBoundingSet", "AmbientCapabilities", "NoNewPrivileges", "RestrictSUIDSGID", "PrivateUsers", "KeyringMode",
		"ProtectClock", "ProtectControlGroups", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules", "ProtectKernelTunables",
		"LockPersonality", "MemoryDenyWriteExecute", "RestrictNamespaces", "RestrictRealtime", "PrivateIPC", "RemoveIPC",
		"SystemCallArchitectures", "SystemCallFilter", "SystemCallErrorNumber", "RestrictAddressFamilies", "LimitNOFILE", "TasksMax"},
	"Install": {"WantedBy"},
}

// unit reads trakr.service: "Section.Name" to the values in order.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	section := ""
	for line := range strings.Lines(read(t, "systemd/trakr.service")) {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			section = strings.Trim(line, "[]")
		default:
			name, value, ok := strings.Cut(line, "=")
			if !ok || !slices.Contains(directives[section], name) {
				t.Errorf("[%s] has no directive %q", section, name)
			}
			out[section+"."+name] = append(out[section+"."+name], value)
		}
	}
	return out
}

func TestUnitIsHardened(t *testing.T) {
	u := unit(t)
	for name, want := range map[string]string{
		"Type": "exec", "User": "trakr", "Restart": "on-failure", "RestartPreventExitStatus": "2", "TimeoutStopSec": "90s", "KillMode": "mixed",
		"StateDirectory": "trakr trakr-ledger", "StateDirectoryMode": "0700", "RuntimeDirectory": "trakr", "RuntimeDirectoryMode": "0700", "UMask": "0077",
		"ProtectSystem": "strict", "ProtectHome": "yes", "PrivateTmp": "yes", "PrivateDevices": "yes", "DevicePolicy": "closed", "ProtectProc": "invisible",
		"CapabilityBoundingSet": "", "AmbientCapabilities": "", "NoNewPrivileges": "yes", "RestrictSUIDSGID": "yes", "PrivateUsers": "yes",
		"ProtectClock": "yes", "ProtectControlGroups": "yes", "ProtectHostname": "yes", "ProtectKernelLogs": "yes", "ProtectKernelModules": "yes",
		"ProtectKernelTunables": "yes", "LockPersonality": "yes", "MemoryDenyWriteExecute": "yes", "RestrictNamespaces": "yes", "RestrictRealtime": "yes",
		"PrivateIPC": "yes", "RemoveIPC": "yes", "SystemCallArchitectures": "native", "SystemCallErrorNumber": "EPERM",
		"RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX", "EnvironmentFile": "/etc/trakr/trakr.env",
		"LoadCredential": "keys.json:/etc/trakr/keys.json", "ExecStart": "/usr/local/bin/trakr serve",
	} {
		if got := u["Service."+name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s=%q, want %q", name, got, want)
		}
	}
	if got := u["Service.SystemCallFilter"]; !slices.Equal(got, []string{"@system-service", "~@privileged @resources"}) {
		t.Errorf("SystemCallFilter=%q", got)
	}
}

func TestUnitSettingsAreAccepted(t *testing.T) {
	example := settings(read(t, "systemd/trakr.env.example"))
	private := settings(read(t, "systemd/trakr.env.example"))
	delete(private, "TRAKR_DATABASE_URL")
	for where, env := range map[string]map[string]string{"an outside PostgreSQL": example, "the private PostgreSQL": private} {
		for _, list := range unit(t)["Service.Environment"] {
			for _, assignment := range strings.Fields(list) {
				name, value, _ := strings.Cut(assignment, "=")
				env[name] = strings.NewReplacer("%S", "/var/lib", "%t", "/run").Replace(value)
			}
		}
		cfg := accepted(t, where, env)
		// The copy that ExecStartPre makes is the one the service reads.
		if pre := unit(t)["Service.ExecStartPre"]; len(pre) != 1 ||
			pre[0] != "/usr/bin/install -m 0400 ${CREDENTIALS_DIRECTORY}/keys.json %t/trakr/keys.json" || cfg.Keys.Reveal() != "/run/trakr/keys.json" {
			t.Errorf("%s: ExecStartPre=%q, TRAKR_KEYS=%q", where, pre, cfg.Keys.Reveal())
		}
		if cfg.DataDir != "/var/lib/trakr" {
			t.Errorf("%s: the data goes to %s, not to the state directory", where, cfg.DataDir)
		}
		if cfg.Ledger != "/var/lib/trakr-ledger/ledger.ndjson" || cfg.CheckpointFile != "/var/lib/trakr-ledger/checkpoint" {
			t.Errorf("%s: the ledger is %s and the checkpoint %s: not apart from the database", where, cfg.Ledger, cfg.CheckpointFile)
		}
		if !strings.HasPrefix(cfg.AdminListen, "127.0.0.1:") {
			t.Errorf("%s: the API listens on %s", where, cfg.AdminListen)
		}
	}
	if !strings.Contains(example["TRAKR_DATABASE_URL"], "sslmode=verify-full") {
		t.Error("the example does not verify the database")
	}
	if got := read(t, "systemd/trakr.sysusers.conf"); !strings.Contains(got, "\nu "+unit(t)["Service.User"][0]+" ") {
		t.Error("the unit's user is not the one made")
	}
}

// TestUnitBySystemd asks systemd-analyze where it is installed; the tests above
// judge the unit everywhere.
func TestUnitBySystemd(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("systemd-analyze is not installed: the unit was judged by the tests' own rules only")
		unit(t)
		return
	}
	// verify wants the program to exist; any that does will do.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "trakr.service")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(read(t, "systemd/trakr.service"), "/usr/local/bin/trakr", self)), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), analyze, "verify", path).CombinedOutput()
	// It speaks of other units of the machine too, and knows no [Install] target
	// on one that was not booted by systemd.
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "trakr.service") {
			t.Errorf("systemd-analyze verify: %s", line)
		}
	}
	if err != nil {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	// Exposure runs from 0 to 100 here; without PrivateNetwork and with the address
	// families a network service needs, 12 is what is left.
	out, err = exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=15", path).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}
