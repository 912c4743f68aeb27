"""Every pixel and every time of real files, held against independent decoders; `python -m tests.fidelity` reports."""
