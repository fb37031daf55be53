"""The shipped YAML files, one folder per command; see README.md."""
