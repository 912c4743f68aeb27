"""De-identification of elements by PS3.15 Annex E, and what it needs: rules as data, vocabularies, keyed pseudonyms.

tables           the Standard's tables, as facts with their source
input_names      names of inputs and AE titles beside the data
key              the key of pseudonyms: its file, its fingerprint
pseudonyms       UIDs, identifiers and weeks of date shift under a key
rules            tables of the Standard, and the action for one attribute
vocabulary       values that cannot identify anybody: codes, defined terms, units, device models
dates            dates and times as DICOM writes them, and shifted ones
values           one element's value: dummy, empty, cleaned, shifted
data_sets        elements, codes and private blocks of data sets
profile          key, options and programs that the settings name, and their effect on one instance
lists            who must not be exported, and pseudonyms given from outside
deidentify       a whole data set, nested ones included
identifiers      what identifies the patient of an instance, and the search for it in bytes and text
verification     the search for identifiers in everything that is about to be published
documents        texts of documents and models that are permitted, for this search
pixels           which pixels may leave, and masks over the others
"""
