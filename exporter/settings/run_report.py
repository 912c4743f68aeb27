"""The section `run_report`: the file that shows what a run did."""

from __future__ import annotations

from listener.foundation.configuration import Section


class RunReportSection(Section):
    """``report.html`` in the output folder, after every run of `backfill`, `batch merge` and `orthanc-storage`."""

    enabled: bool = True
    """Whether it is written, unless the output folder is itself `media.dir`; `exporter report` writes it in any
    case."""
    pictures: bool = True
    """Whether it has small pictures and previews of media, which show what is burned into them."""
