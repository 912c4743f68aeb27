"""Parts of the waveform writer.

waveform_groups  multiplex groups as numbers
drawing          waveforms as SVG and PNG
"""
