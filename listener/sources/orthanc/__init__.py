"""Instances from a living Orthanc, over its REST interface."""
