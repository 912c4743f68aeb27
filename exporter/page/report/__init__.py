"""The report of a data or output folder: one HTML file that shows what was done, for people without this program.

writing    makes the file, whole or not at all
facts      what it shows: numbers, and a sample of bounded size
previews   small pictures and videos of media, made in a child process
document   the HTML
markup     elements and text with escaping

Contract: one file below 20 MB whatever the folder holds, without any address in it, with nothing that names a patient
and no path of an input. It needs nothing but what the exporter always has.
"""
