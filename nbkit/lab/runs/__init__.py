"""Many training runs as one program."""
