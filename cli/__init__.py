"""The command line: one command per file. Parses, calls one library function, renders."""
