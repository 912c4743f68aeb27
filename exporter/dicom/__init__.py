"""One DICOM file at rest: its bytes, structure, elements, pixel description, times and geometry.

bytesource    bytes by position, of a file or of an inflated data set
structure     tags, value representations and lengths: a bounded walk
elements      values of a header through pydicom
plain_header  ordinary headers, read in one pass
instance      one file, read-only and lazily
received      which AE title's settings apply to a received file
pixels        how pixels are stored, checked before anything is allocated
timing        when each frame is shown, and how that is known
ultrasound    calibrated regions
rejection_note  what a rejection note says
geometry      planes in the patient, and grids of them
"""
