"""Parts that the image, frames and video writers share.

cine            which instances are a cine, a video stream, a set of pictures
display_frames  pictures of an instance, one by one
display_order   pictures of a video stream in the order of display
video_stream    a video stream opened with FFmpeg
nal_units       units of H.264 and HEVC streams
hevc_slices     slices of HEVC pictures that are missing
framing         cropping and scaling
aspect_and_icc  pixel aspect and colour profile
"""
