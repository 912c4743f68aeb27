"""Records of instances and the files they are kept in."""
