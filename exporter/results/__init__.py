"""Results of instances: published media, the ledger, the metadata lines, and the checks of all three.

output_names  what outputs are called
publish       media and outcome made visible and durable
intents       renames under way, noted for the next start
ownership     the owner file of a media folder
ledger        what happened to every instance
line          one metadata line
deidentification  key and profiles that an output was begun with
stores        how media are kept below a media folder
metadata      records, and the file of lines
withdrawal    what a changed list of patients forbids
rejections    what rejection notes do to the instances that they name
reconcile     the proof that nothing is missing
run_report    the name of the report of a run, and how ours is recognised
rebuild       a lost ledger made anew
"""
