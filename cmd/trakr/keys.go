package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"trakr/internal/app"
	"trakr/internal/keyring"
	"trakr/internal/lifecycle"
	"trakr/internal/rotation"
	"trakr/internal/store"
	"trakr/internal/store/tenants"
)

func (a *cli) keysCommand() *cobra.Command {
	c := &cobra.Command{Use: "keys", Short: "Make, rotate and wrap the keys that encrypt tenant values and sign checkpoints",
		Long: "The keyring (TRAKR_KEYS) contains the keys that encrypt tenant values, the key that makes the digests by which\n" +
			"tenants are recognised, and the key that signs checkpoints and certificates. Only the first are rotated:\n" +
			"digests and signatures must stay comparable for as long as what carries them is kept.",
		Example: "  trakr keys show\n  trakr keys rotate --dry-run\n  trakr keys rotate --reason-ref OPS-12"}
	c.AddCommand(a.keysCreate(), a.keysUpgrade(), a.keysShow(), a.keysAdd(), a.keysRotate(), a.keysWrap(), a.keysUnwrap())
	return c
}

func (a *cli) keysCreate() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "create", Short: "Make a new keyring, for a service that is set up by hand", Args: cobra.NoArgs,
		Long: "Writes a new keyring to a file of mode 0600, or with --out - to standard output, for a platform\n" +
			"that hands secrets over in the environment (TRAKR_KEYS takes the text itself). With TRAKR_KEYS_WRAP\n" +
			"it is wrapped by that key.",
		Example: "  trakr keys create --out /etc/trakr/keys.json",
		RunE: func(*cobra.Command, []string) error {
			if out == "" {
				return usageError{errors.New("name the destination: --out FILE, or --out - for standard output")}
			}
			cfg, err := a.config(false)
			if err != nil {
				return err
			}
			b, err := app.KeySource(cfg).Marshal()
			if err != nil {
				return err
			}
			return a.writeKeyring(out, b)
		},
	}
	c.Flags().StringVar(&out, "out", "", "file to write, or -")
	return c
}

// writeKeyring writes a keyring's stored form to a new file, or to standard output.
func (a *cli) writeKeyring(out string, stored []byte) error {
	if out == "-" {
		_, err := a.out.Write(stored)
		return err
	}
	if err := keyring.Write(out, stored); err != nil {
		return usageError{err}
	}
	abs, _ := filepath.Abs(out)
	_, err := fmt.Fprintf(a.err, "%s written. Keep a copy apart from the database's backups.\n", abs)
	return err
}

func (a *cli) keysUpgrade() *cobra.Command {
	var in, upgraded string
	c := &cobra.Command{
		Use: "upgrade", Short: "Add the signing key that a keyring of an older version lacks", Args: cobra.NoArgs,
		Long: "Writes a new keyring file with every key of the old one and a new key that signs the audit's\ncheckpoints. The " +
			"old file stays as it is.",
		Example: "  trakr keys upgrade --in data/keys.json --out data/keys.new && mv data/keys.new data/keys.json",
		RunE: func(*cobra.Command, []string) error {
			if in == "" || upgraded == "" {
				return usageError{errors.New("name both files: --in FILE --out NEWFILE")}
			}
			old, err := os.ReadFile(in)
			if err != nil {
				return usageError{err}
			}
			b, err := keyring.Upgrade(old)
			if err != nil {
				return usageError{err}
			}
			if err := keyring.Write(upgraded, b); err != nil {
				return usageError{err}
			}
			_, err = fmt.Fprintln(a.out, upgraded, "written")
			return err
		},
	}
	c.Flags().StringVar(&in, "in", "", "the old keyring's file")
	c.Flags().StringVar(&upgraded, "out", "", "file to write; it must not exist")
	return c
}

func (a *cli) keysShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Show the field keys by id, what each encrypts, and which running service has which; no key",
		Args:  cobra.NoArgs,
		Long: "States: active (encrypts), retired (only decrypts; a rotation is under way), destroyed, staged (in the keyring,\n" +
			"encrypts nothing yet), unknown (values are encrypted with it, and neither the keyring nor the database knows it).",
		Example: "  trakr keys show\n  trakr keys show --json",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			keys, err := s.Door.FieldKeys(ctx)
			if err != nil {
				return err
			}
			running, err := s.Instances.List(ctx)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]any{"field_keys": keys, "services": running, "wrapped_by": s.Config.KeysWrap})
			}
			if err := a.table("KEY\tSTATE\tIN THE KEYRING\tVALUES\tACTIVE SINCE", func(line func(...any)) {
				for _, k := range keys {
					held := "no"
					if k.InKeyring {
						held = "yes"
					}
					line(k.ID, k.State, held, k.Values, orDash(k.ActiveAt))
				}
			}); err != nil {
				return err
			}
			fmt.Fprintln(a.out)
			return a.table("RUNNING SERVICE\tKEYS\tSEEN", func(line func(...any)) {
				for _, h := range running {
					line(h.ID, h.KeyIDs, h.SeenAt)
				}
			})
		}),
	}
}

func (a *cli) keysAdd() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "add", Short: "Add a field key that encrypts nothing yet, to be given to every service before a rotation", Args: cobra.NoArgs,
		Long: "Needed only where services have copies of the keyring or its text in the environment; trakr keys rotate\n" +
			"does it by itself in a file. With --out the keyring with the new key is written elsewhere, and the one in\n" +
			"use stays as it is. It does not touch the database.",
		Example: "  trakr keys add --out keys.new        # then give it to every service, and rotate",
		RunE: func(*cobra.Command, []string) error {
			cfg, err := a.config(false)
			if err != nil {
				return err
			}
			var id keyring.KeyID
			if out == "" {
				if err := app.KeySource(cfg).Edit(keyring.AddFieldKey(&id)); err != nil {
					return keysUsage(err)
				}
			} else {
				b, err := app.KeySource(cfg).Changed(keyring.AddFieldKey(&id))
				if err != nil {
					return keysUsage(err)
				}
				if err := a.writeKeyring(out, b); err != nil {
					return err
				}
			}
			_, err = fmt.Fprintf(a.err, "Key %s added. Give this keyring to every running service, then run: trakr keys rotate\n", id)
			return err
		},
	}
	c.Flags().StringVar(&out, "out", "", "file to write instead, or - for standard output")
	return c
}

// keysUsage returns the failures that the command line can avoid as wrong usage.
func keysUsage(err error) error {
	if errors.Is(err, keyring.ErrNotInPlace) && !errors.Is(err, rotation.ErrElsewhere) {
		return usageError{fmt.Errorf("%w; name the destination: --out FILE, or --out - for standard output", err)}
	}
	if errors.Is(err, rotation.ErrElsewhere) || errors.Is(err, fs.ErrNotExist) {
		return usageError{err}
	}
	return err
}

func (a *cli) keysRotate() *cobra.Command {
	var out string
	var dry, resume bool
	var wait time.Duration
	var why reasonFlags
	c := &cobra.Command{
		Use: "rotate", Short: "Re-encrypt every tenant value with a new key and destroy the old one", Args: cobra.NoArgs,
		Long: "1. adds a key to the keyring and waits until every running service has it (each looks every few seconds);\n" +
			"2. makes it the active one: the database then refuses every value that is encrypted with the old one;\n" +
			"3. re-encrypts every value, tenant by tenant with an audit event each, while reads and callbacks continue, and\n" +
			"   what waits for the end service;\n" +
			"4. has the database count that nothing is encrypted with the old key, takes that out of the keyring, and\n" +
			"   records it.\n" +
			"Values that look like an e-mail address or a telephone number, which a version before this one may have stored,\n" +
			"are left as they are, a finding: the audit names their tenants, and the old key stays until they are removed.\n" +
			"Killed or failed anywhere, nothing is lost: run it again, and it finishes before anything else. The file is\n" +
			"replaced whole, with owner and mode as they were.\n\n" +
			"Services with copies of the keyring: after step 1 it stops and reports that; give them the new file, restart\n" +
			"them, run it again. Where TRAKR_KEYS contains the text itself, or names a copy in memory\n" +
			"(below /run: systemd, container secrets), it is not changed in place:\n" +
			"  trakr keys add --out FILE, give FILE's keyring to every service and to this command,\n" +
			"  trakr keys rotate --out FILE2, give FILE2's to them, trakr keys rotate (records that the old one is removed).\n" +
			"No order of these steps leaves a running service with values that it cannot open: the wrong one is refused.\n\n" +
			"Backups of the database from before can be opened only with the keyring from before. Keep a copy of it,\n" +
			"apart from them, until they have expired, or do without them. Digests do not change: tenants are found as\n" +
			"before. The keys of digests and of signatures are not rotated.",
		Example: "  trakr keys rotate --dry-run\n  trakr keys rotate --reason-ref OPS-12\n  trakr keys rotate --resume        # " +
			"finish one that was killed, begin none",
		RunE: a.with(app.Command, func(ctx context.Context, s *app.App, _ []string) error {
			lease, ok, err := store.TryLease(ctx, s.DB, "keys rotate")
			if err != nil {
				return err
			}
			if !ok {
				return errors.New("another `trakr keys rotate` is running; wait for its end")
			}
			defer lease.Release()
			c := rotation.Config{Door: s.Door, Instances: s.Instances, Outbox: s.Outbox, Keys: s.Keys,
				Source: app.KeySource(s.Config), Wait: wait, After: s.AfterStep,
				Report: func(string) {}, Progress: func(int64, int64) {}}
			if !a.json {
				c.Report, c.Progress = func(line string) { fmt.Fprintln(a.err, line) }, a.reencrypting()
			}
			if out != "" {
				c.Out = func(b []byte) error { return a.writeKeyring(out, b) }
			}
			r, err := rotation.New(c)
			if err != nil {
				return err
			}
			p, err := r.Plan(ctx)
			if err != nil {
				return err
			}
			switch {
			case dry:
				return a.showPlan(p)
			case resume && !p.Underway:
				if a.json {
					return a.printJSON(rotation.Done{Active: p.Active, Old: []keyring.KeyID{}})
				}
				_, err := fmt.Fprintln(a.out, "no rotation is under way")
				return err
			}
			done, err := r.Run(ctx, why.access())
			if errors.Is(err, rotation.ErrUndecryptable) || errors.Is(err, rotation.ErrContact) || errors.Is(err, tenants.ErrKeyInUse) {
				fmt.Fprintln(a.err, "trakr:", err)
				err = errFinding
			}
			if err != nil && !errors.Is(err, errFinding) {
				return keysUsage(err)
			}
			return errors.Join(a.showDone(done, out), err)
		}),
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "print what would be done, change nothing")
	c.Flags().BoolVar(&resume, "resume", false, "only finish a rotation that is under way")
	c.Flags().StringVar(&out, "out", "", "where to write the keyring without the old key, a file or -, when it is not changed in place")
	c.Flags().DurationVar(&wait, "wait", 45*time.Second, "how long running services may take to load the new key")
	why.register(c, lifecycle.ServiceOperation)
	return c
}

// reencrypting shows how far the values are: a bar on a terminal, a line now and then
// elsewhere.
func (a *cli) reencrypting() func(more, total int64) {
	var bar func(int64)
	var done int64
	shown := time.Now()
	return func(more, total int64) {
		if bar == nil {
			bar = a.progress(total, "re-encrypting", progressbar.OptionShowCount(), progressbar.OptionShowIts())
		}
		bar(more)
		done += more
		switch {
		case done >= total:
			bar(-1)
		case !a.onTerminal() && time.Since(shown) > 2*time.Second:
			shown = time.Now()
			fmt.Fprintf(a.err, "%d of %d values are re-encrypted\n", done, total)
		}
	}
}

func (a *cli) showPlan(p rotation.Plan) error {
	if a.json {
		return a.printJSON(p)
	}
	next := "a new key"
	if p.New != 0 {
		next = "key " + p.New.String()
	}
	if p.Underway {
		fmt.Fprintln(a.out, "A rotation is under way and would be finished:")
	} else {
		fmt.Fprintf(a.out, "%s would become the active one instead of key %s", next, p.Active)
		if p.Services > 0 {
			fmt.Fprintf(a.out, ", once all %d running services have it (%d do not yet)", p.Services, p.Behind)
		}
		fmt.Fprintln(a.out, ".")
	}
	fmt.Fprintf(a.out, "%d values and messages would be re-encrypted with %s.\n", p.Values, next)
	_, err := fmt.Fprintf(a.out, "Destroyed afterwards: %v. Nothing was changed.\n", p.Retired)
	return err
}

func (a *cli) showDone(d rotation.Done, out string) error {
	if a.json && out != "-" {
		return a.printJSON(d)
	}
	w := a.out
	if out == "-" { // the keyring is there
		w = a.err
	}
	fmt.Fprintf(w, "%d values of %d tenants and %d messages to the end service are re-encrypted with key %s.\n", d.Values,
		d.Tenants, d.Messages, d.Active)
	switch {
	case d.Destroyed:
		fmt.Fprintf(w, "Destroyed: %v. Keep a new copy of the keyring apart from the database's backups; services with a copy "+
			"need the new one.\n", d.Old)
	case d.Written:
		fmt.Fprintf(w, "Nothing is encrypted with %v any more. Give the keyring without it to every service and to this command, "+
			"then record that with: trakr keys rotate\n", d.Old)
	}
	return nil
}

func (a *cli) keysWrap() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "wrap", Short: "Wrap the keyring's file by the key that TRAKR_KEYS_WRAP names", Args: cobra.NoArgs,
		Long: "The file is encrypted with a key of its own, and that one by the key server, which never sees the keyring.\n" +
			"From then on the service needs both at its start. The file is replaced whole; copies in clear stay where\n" +
			"they are: destroy them, or keep one offline against the loss of the key server's key.",
		Example: "  TRAKR_KEYS_WRAP=hcvault://vault.example.com/transit/keys/trakr TRAKR_KEYS_WRAP_TOKEN_FILE=/run/vault-token " +
			"trakr keys wrap",
		RunE: func(*cobra.Command, []string) error { return a.rewrap(true, out) },
	}
	c.Flags().StringVar(&out, "out", "", "file to write instead, or - for standard output")
	return c
}

func (a *cli) keysUnwrap() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "unwrap", Short: "Keep the keyring's file in clear again", Args: cobra.NoArgs,
		Long:    "Unset TRAKR_KEYS_WRAP afterwards: with it a keyring in clear is refused.",
		Example: "  trakr keys unwrap",
		RunE:    func(*cobra.Command, []string) error { return a.rewrap(false, out) },
	}
	c.Flags().StringVar(&out, "out", "", "file to write instead, or - for standard output")
	return c
}

func (a *cli) rewrap(wrapped bool, out string) error {
	cfg, err := a.config(false)
	if err != nil {
		return err
	}
	if cfg.KeysWrap == "" {
		return usageError{errors.New("set TRAKR_KEYS_WRAP to the key of the key server, hcvault://HOST/transit/keys/NAME")}
	}
	from, to := app.KeySource(cfg), cfg.KeysWrap
	if wrapped {
		if _, err := from.Load(); err == nil {
			_, err = fmt.Fprintf(a.out, "%s is wrapped by %s already\n", from.At, to)
			return err
		}
		from.Wrap = ""
	} else {
		to = ""
	}
	if out != "" {
		b, err := from.Rewrapped(to)
		if err != nil {
			return keysUsage(err)
		}
		return a.writeKeyring(out, b)
	}
	if err := from.Rewrap(to); err != nil {
		return keysUsage(err)
	}
	words := map[bool]string{true: "is wrapped by " + cfg.KeysWrap, false: "is kept in clear"}
	_, err = fmt.Fprintf(a.out, "%s %s\n", from.At, words[wrapped])
	return err
}
