"""Storage commitment (PS3.4 annex J).

queue      requests, and reports that wait
index      what was acknowledged, looked up
messages   data sets of requests and reports
reporting  reports delivered to their targets
"""
