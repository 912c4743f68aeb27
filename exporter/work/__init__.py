"""The engine, its worker processes, their protocol, and the pipeline of one instance.

contract      the interface of work sources and engines
feeder        moves work from a source to an engine, and results back
engine        threads that supervise workers and publish outcomes
scheduling    which instance a worker gets next
input_order   relations and names in the order of the inputs
isolation     instances under way at crashes of the exporter, tried again alone
supervisor    one worker process, supervised
worker        the worker process
worker_server the fork server of the worker processes
protocol      messages between supervisor and worker
pipeline      one instance: open, identify, write, record
deidentification  an instance de-identified before it has an identity, and verified before it counts
absent_media  why a skipped instance has no media
"""
