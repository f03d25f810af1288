"""The page about one or several runs."""
