"""The command line: thin commands that translate and call one use case."""
