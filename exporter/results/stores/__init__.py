"""Media stores: how media are kept below a media folder, one module for each store.

contract     what the publisher asks of every store
files        every medium is a file
"""
