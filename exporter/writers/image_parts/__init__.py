"""Parts of the image writer.

image_file  one picture encoded, written and read back
png         PNG encoding
png_check   comparison of a PNG file with its samples
raw         stored values in 16 bits
"""
