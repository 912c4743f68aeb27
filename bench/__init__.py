"""Measurements against peers, interleaved, on this machine: `python -m bench --help`."""
