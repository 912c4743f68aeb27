"""Parts of the image writer.

image_file  one picture encoded, written and read back
png         PNG encoding
raw         stored values in 16 bits
"""
