"""Our side of an association that a peer requests.

association   one association from connection to end
pynetdicom_engine  the same, with pynetdicom as the upper layer
serving       the associations of one process
services      what each message is answered
storage       one data set into the spool
config        settings of new associations
stats         counts and the log line of an association
overload      connections beyond the limits
cpu_affinity  where an association's thread runs
"""
