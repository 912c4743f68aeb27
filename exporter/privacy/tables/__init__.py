"""Tables of the Standard as facts; the head of each says edition, source and SHA-256.

confidentiality_profile.tsv  PS3.15 Table E.1-1: attributes
content_items.tsv            PS3.15 Table E.3.4-1: content items of structured reports
safe_private.tsv             PS3.15 Table E.3.10-1: private attributes
attribute_types.tsv          PS3.3: Types of the attributes whose action depends on the Type
kept_texts.txt               text attributes that may stay, and with which values
defined_terms.txt            terms of VR CS that may stay
device_models.txt            makers and models that may stay
protocol_words.txt           words of descriptions that may stay
"""
