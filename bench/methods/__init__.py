"""What people do today, and the bare limit, as scripts that the benchmarks run beside ours.

dme_method      cines to MP4 as the first seed tool does it
niffler_method  images to 16-bit PNG as the second seed tool does it
bare_png        images to PNG with our libraries and no promise kept
json_lines      headers to JSON lines with pydicom
"""
