"""Parts of the video writer.

video_plan        what a video is to be
encoder           encoding
ordinary_priority encoders kept from real-time scheduling
pixel_format      colours and sampling
verify            the written video decoded and compared
remux             a stream copied into another container
jpeg_copy         JPEG frames copied as Motion JPEG
jpeg_planes       JPEG frames encoded without a detour over RGB
soundtrack        sound of a video stream
"""
