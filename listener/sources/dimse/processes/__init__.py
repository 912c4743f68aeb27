"""Further receiving processes of one listener.

pool      the processes, supervised
child     one of them
messages  the typed messages between them, some with descriptors
"""
