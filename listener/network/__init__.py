"""Connections.

connection_slots  how many connections there may be, and who makes room for whom
deadlines         time limits of whole requests to servers
tls               server contexts after BCP 195
ports             listening on a port
http_server       HTTP/1.1 that no client can hold up
token             what an HTTP client shows to be let in
"""
