package app

// Mode is the purpose for which the service is opened. It decides what the database must
// fulfil, and what Open does before it returns; see requirements.
type Mode int

// Modes. The zero Mode is none of them, and Open refuses it.
const (
	// Serve is the service itself: Serve can be called.
	Serve Mode = iota + 1
	// Command works on the database beside a running service, or without one.
	Command
	// Inspect is a command that reports what is wrong with the database. It changes
	// nothing, so it opens a database whose guards are missing too.
	Inspect
	// BeforeReplay is a command for what a person may have to do before a restored
	// backup is replayed: place a legal hold.
	BeforeReplay
	// Replay is a command that erases again what a restored backup brought back.
	Replay
	// Complete is the shell's completion, which lists ids. It starts no PostgreSQL.
	Complete
)

// postgresStart is how a process gets at the private PostgreSQL.
type postgresStart int

const (
	// attachOrStart uses the one that a running service lends, or starts it for the
	// time of the command.
	attachOrStart postgresStart = iota
	// startOnly never borrows it: it belongs to this process until it ends.
	startOnly
	// attachOnly uses the one that a running service lends, and fails without it.
	attachOnly
)

// ledgerUse is what happens between the erasure ledger and the database before anything
// else can read a tenant.
type ledgerUse int

const (
	// ledgerOpened only opens the ledger.
	ledgerOpened ledgerUse = iota
	// ledgerCompared refuses a database in which the ledger's erased tenants are live.
	ledgerCompared
	// ledgerReplayed erases those tenants again.
	ledgerReplayed
)

// requirement is what one mode requires.
type requirement struct {
	postgres postgresStart
	// guards: the controls in the database's catalog must pass.
	guards bool
	// service: settings and catalog must be as the policy declares, the audit's next
	// months get their partitions, and the listeners and telemetry are opened.
	service bool
	ledger  ledgerUse
}

// requirements is the table of the modes. The schema must be of this version in each.
var requirements = map[Mode]requirement{
	Serve:        {postgres: startOnly, guards: true, service: true, ledger: ledgerReplayed},
	Command:      {postgres: attachOrStart, guards: true, ledger: ledgerCompared},
	Inspect:      {postgres: attachOrStart, ledger: ledgerOpened},
	BeforeReplay: {postgres: attachOrStart, guards: true, ledger: ledgerOpened},
	Replay:       {postgres: attachOrStart, guards: true, ledger: ledgerReplayed},
	Complete:     {postgres: attachOnly, guards: true, ledger: ledgerOpened},
}
