"""Further receiving processes of one listener.

pool      the processes, supervised
child     one of them
messages  what they say to each other, with descriptors
"""
