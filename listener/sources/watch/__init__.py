"""Watched folders: files that other programs leave there come into the spool once they are complete.

source  one watched folder
folder  what is in it
taking  one file copied, then left, moved or deleted
memory  what is known of each file, durably
"""
