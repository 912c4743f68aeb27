"""Instances from a living Orthanc, over its REST interface: new ones as they come, and what was missed, found later.

source          one thread per server
poller          its log of changes, and its list of instances
cursor          the position in the log of changes
reconciliation  what the log of changes left out
assignments     downloads under way
downloads       instances fetched into the spool
filters         which instances are wanted
memory          what is known of each instance, durably
contact         whether the server answers
client          requests with bounds
rest            the requests there are
answers         their answers, checked
identifiers     names of Orthanc's resources
outcomes        what is logged and counted
troubles        what can go wrong
"""
