package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"trakr/policy"
)

func (a *app) policyCommand() *cobra.Command {
	var file string
	check := &cobra.Command{
		Use: "check", Short: "Check a policy file; every fault with its line", Args: cobra.NoArgs,
		Example: "  trakr policy check --policy my-policy.yaml\n  trakr policy check --policy my-policy.yaml --json | jq .faults",
		RunE: func(*cobra.Command, []string) error {
			p, err := a.loadPolicy(file)
			var faults *policy.Error
			if errors.As(err, &faults) && a.json {
				return errors.Join(a.printJSON(map[string]any{"file": faults.File, "faults": faults.Faults}), err)
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(map[string]string{"hash": p.Hash()})
			}
			_, err = fmt.Fprintf(a.out, "sound; SHA-256 %s\n", p.Hash())
			return err
		},
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
		Use: "schema", Short: "Print the policy's JSON Schema, for an editor", Args: cobra.NoArgs, Example: "  trakr policy schema > policy.schema.json",
		RunE: func(*cobra.Command, []string) error { _, err := a.out.Write(policy.Schema()); return err },
	}
	diff := &cobra.Command{
		Use: "diff OLD NEW", Short: "Tell in words what a new policy promises otherwise than an old one", Args: cobra.ExactArgs(2),
		Long: "Compares two policy files section by section; \"built-in\" stands for the one built in. Comments, layout\n" +
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

func (a *app) loadPolicy(file string) (*policy.Policy, error) {
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

func (a *app) policyDiff(oldFile, newFile string) error {
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
func (a *app) printChanges(changes []policy.Change, sameFile bool) error {
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
