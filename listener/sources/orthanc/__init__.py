"""Instances from a living Orthanc, over its REST interface: new ones as they come, and what was missed, found later."""
