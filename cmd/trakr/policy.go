package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"trakr/policy"
	"trakr/reports"
)

func (a *cli) policyCommand() *cobra.Command {
	var file string
	check := &cobra.Command{
		Use: "check", Short: "Check a policy file and the statement's; every fault with its line", Args: cobra.NoArgs,
		Long: "Validates the policy, and the security statement that TRAKR_STATEMENT names: their form, that their parts agree, and\n" +
			"what no policy may promise. Every fault of both comes at once. Of a table or column that the built-in policy does not\n" +
			"know, the policy declares its categories; the statement describes what of it is of a customer.\n" +
			"A statement of your own is warned of: its sentences are yours, and a check proves only what its own title states.",
		Example: "  trakr policy check --policy my-policy.yaml\n  trakr policy check --policy my-policy.yaml --json | jq .faults",
		RunE:    func(*cobra.Command, []string) error { return a.policyCheck(file) },
	}
	show := &cobra.Command{
		Use: "show", Short: "Print the policy the service acts by", Args: cobra.NoArgs,
		Example: "  trakr policy show > my-policy.yaml\n  trakr policy show --json | jq .egress",
		RunE: func(*cobra.Command, []string) error {
			p, err := a.loadPolicy(file)
			if err != nil {
				return err
			}
			text := p.Source()
			if a.json {
				if text, err = p.JSON(); err != nil {
					return err
				}
			}
			_, err = a.out.Write(text)
			return err
		},
	}
	schema := &cobra.Command{
		Use:     "schema",
		Short:   "Print the policy's JSON Schema, for an editor",
		Args:    cobra.NoArgs,
		Example: "  trakr policy schema > policy.schema.json",
		RunE:    func(*cobra.Command, []string) error { _, err := a.out.Write(policy.Schema()); return err },
	}
	diff := &cobra.Command{
		Use: "diff OLD NEW", Short: "List what a new policy promises differently from an old one", Args: cobra.ExactArgs(2),
		Long: "Compares two policy files section by section; \"built-in\" names the one built in. Comments, layout\n" +
			"and the order of lists are no promises. Exits 0 when the promises are the same, 1 when they differ.",
		Example: "  trakr policy diff built-in my-policy.yaml\n  trakr policy diff --json old.yaml new.yaml",
		RunE:    func(_ *cobra.Command, args []string) error { return a.policyDiff(args[0], args[1]) },
	}
	c := &cobra.Command{Use: "policy", Short: "Check, show or compare policies",
		Example: "  trakr policy check --policy my-policy.yaml\n  trakr policy diff built-in my-policy.yaml"}
	c.PersistentFlags().StringVar(&file, "policy", "", "policy file (default: TRAKR_POLICY, else the one built in)")
	c.AddCommand(check, show, diff, schema)
	return c
}

// validated is what is known of a file that was checked.
type validated struct {
	File   string         `json:"file,omitempty"`
	Hash   string         `json:"hash,omitempty"`
	Origin string         `json:"origin,omitempty"` // of a statement: shipped or own
	Faults []policy.Fault `json:"faults,omitempty"`
}

func (j *validated) take(err error) error {
	var faults *policy.Error
	if errors.As(err, &faults) {
		j.File, j.Faults = faults.File, faults.Faults
		return nil
	}
	return err
}

func (a *cli) policyCheck(file string) error {
	cfg, err := a.config(false)
	if err != nil {
		return err
	}
	var found struct {
		validated
		Statement validated `json:"statement"`
	}
	p, errPolicy := a.loadPolicy(file)
	s, errStatement := policy.LoadStatement(cfg.Statement, reports.Checks())
	if p != nil {
		found.Hash = p.Hash()
	}
	if s != nil {
		found.Statement.Hash, found.Statement.Origin = s.Hash(), s.Origin()
	}
	if err := found.take(errPolicy); err != nil {
		return err
	}
	if err := found.Statement.take(errStatement); err != nil {
		return usageError{err}
	}
	switch err := errors.Join(errPolicy, errStatement); {
	case a.json:
		return errors.Join(a.printJSON(found), err)
	case err != nil:
		return err
	}
	if s.Origin() != policy.Shipped {
		if _, err := fmt.Fprintf(a.err, "trakr: warning: the statement of TRAKR_STATEMENT is your own (SHA-256 %s), not the one shipped; "+
			"nobody but you has held its words against the checks they are bound to\n", s.Hash()); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(a.out, "sound; SHA-256 %s\n", p.Hash())
	return err
}

func (a *cli) loadPolicy(file string) (*policy.Policy, error) {
	if file == "" {
		cfg, err := a.config(false)
		if err != nil {
			return nil, err
		}
		file = cfg.Policy
	}
	return readPolicy(file)
}

// builtIn names the policy that is built in, where a file is asked for.
const builtIn = "built-in"

// side is one of two policies that are compared.
type side struct {
	File string `json:"file"`
	Hash string `json:"hash"`
}

func (a *cli) policyDiff(oldFile, newFile string) error {
	before, errOld := readPolicy(oldFile)
	after, errNew := readPolicy(newFile)
	if err := errors.Join(errOld, errNew); err != nil {
		return err
	}
	changes, err := policy.Diff(before, after)
	if err != nil {
		return err
	}
	same := before.Hash() == after.Hash()
	if a.json {
		err = a.printJSON(struct {
			Old          side            `json:"old"`
			New          side            `json:"new"`
			SameFile     bool            `json:"same_file"`
			SamePromises bool            `json:"same_promises"`
			Changes      []policy.Change `json:"changes"`
		}{side{oldFile, before.Hash()}, side{newFile, after.Hash()}, same, len(changes) == 0, append([]policy.Change{}, changes...)})
	} else {
		err = a.printChanges(changes, same)
	}
	if err == nil && len(changes) > 0 {
		err = errFinding
	}
	return err
}

// printChanges prints them by section.
func (a *cli) printChanges(changes []policy.Change, sameFile bool) error {
	switch {
	case sameFile:
		_, err := fmt.Fprintln(a.out, "the two files are the same, byte by byte")
		return err
	case len(changes) == 0:
		_, err := fmt.Fprintln(a.out, "the promises are the same; only comments, layout or the order of lists differ, and so the hash")
		return err
	}
	section := ""
	for _, c := range changes {
		if c.Section != section {
			section = c.Section
			if _, err := fmt.Fprintln(a.out, section); err != nil {
				return err
			}
		}
		line := c.What
		if c.Subject != "" {
			line = c.Subject + ": " + line
		}
		if _, err := fmt.Fprintln(a.out, "  "+line); err != nil {
			return err
		}
	}
	return nil
}

func readPolicy(file string) (*policy.Policy, error) {
	if file == builtIn {
		file = ""
	}
	p, err := policy.LoadFile(file)
	if err != nil && !errors.As(err, new(*policy.Error)) {
		err = usageError{err}
	}
	return p, err
}
