"""The commands, one file each: `add` declares its arguments, `run` calls and prints. No logic."""
