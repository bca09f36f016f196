package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

// flagSet parses quietly: what is wrong becomes the contract's event, not a usage text.
func flagSet(program string) *flag.FlagSet {
	set := flag.NewFlagSet(program, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	return set
}

// parse reads all arguments; there are none without a name.
func parse(set *flag.FlagSet, args []string) error {
	if err := set.Parse(args); err != nil {
		return err
	}
	if set.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	return nil
}

// pairs is a repeatable flag of two texts with a separator; only the first one splits.
func pairs(set *flag.FlagSet, name, separator, usage string) *[][2]string {
	var all [][2]string
	set.Func(name, usage, func(text string) error {
		key, value, ok := strings.Cut(text, separator)
		if !ok {
			return fmt.Errorf("%q has no %q", text, separator)
		}
		all = append(all, [2]string{key, value})
		return nil
	})
	return &all
}
