"""Instances from a folder into which somebody puts files."""
