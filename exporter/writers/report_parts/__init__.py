"""Parts of the report writer.

content_tree  the content tree of a structured report
"""
