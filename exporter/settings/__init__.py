"""Settings of the exporter.

settings     the whole YAML file, validated
engine       the section `engine`
notify       the section `notify`
page         the section `page`
pull         the section `pull`
run_report   the section `run_report`
windows      times of day
permissions  mode and group of media
"""
