"""stub"""


def is_tag(key: str) -> bool:
    """X"""
    return len(key) == 8 and not set(key) - set("0123456789ABCDEF")
