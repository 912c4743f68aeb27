"""Archives of files: zip and tar, read where they are, member by member.

    found (is it one?) -> zipped / tarred (its members) -> names (what each is called) -> members (entries of a run)

Contract: nothing here unpacks a whole archive, follows a link, believes a size, or makes a path of a name.

    reader    one archive as input
    unpacked  decompressed streams
    member    what an archive has
"""
