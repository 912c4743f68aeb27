"""STOW-RS: instances come over HTTP (PS3.18 10.5)."""
