"""Records of instances, and the file they are kept in.

record      the elements of one instance as JSON
keys        what an element is called
dicom_json  elements in the DICOM JSON Model instead
jsonl       the file of lines, appended exactly once
rotation    lines that were moved away by rotation
inspection  the file of lines looked at after a crash
"""
