"""The command line: one file per command group; nothing heavy is imported before a command runs."""
