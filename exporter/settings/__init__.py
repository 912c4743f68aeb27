"""Settings of the exporter.

settings     the whole YAML file, validated
engine       the section `engine`
pull         the section `pull`
windows      times of day
permissions  mode and group of media
"""
