"""Instances over HTTP: the store transaction of DICOMweb (PS3.18 10.5), STOW-RS."""
