"""The commands of `python -m training`, one a file: each adds its arguments and runs."""
