"""STOW-RS: instances come over HTTP (PS3.18 10.5).

source         the service started and ended
app            requests and their answers
multipart      multipart/related, part by part
intake         the parts of one request
part10         one part: PS3.10 into the spool
response       the store response
"""
