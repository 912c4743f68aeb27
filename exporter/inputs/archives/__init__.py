"""Archives of files: zip and tar, read where they are, member by member.

    found (is it one?) -> zipped / tarred (its members) -> names (what each is called) -> members (entries of a run)

Contract: nothing here unpacks a whole archive, follows a link, trusts a size, or uses a member's name as a path.

    reader    one archive as input
    unpacked  decompressed streams
    member    common parts of zip and tar
"""
