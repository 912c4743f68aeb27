"""The engine, its worker processes, their protocol, and the pipeline of one instance.

contract      what a source of work and an engine exchange
feeder        keeps an engine busy from a source
engine        threads that supervise workers and publish what they finish
scheduling    which instance a worker gets next
input_order   relations and names in the order of the inputs
isolation     instances under way at an exporter's end, tried again alone
supervisor    one worker process, supervised
worker        the worker process
protocol      what crosses the pipe
pipeline      one instance: open, identify, write, record
absent_media  why a skipped instance has no media
"""
