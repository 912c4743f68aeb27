"""Watched folders: files that other programs leave there come into the spool once they are complete."""
