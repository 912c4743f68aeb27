"""Which instances are taken, as far as Orthanc itself can tell without giving the file out.

Contract: `Filters.refuses` names the filter that leaves an instance out, or None. What it asks about series and studies
it remembers for some seconds only, and only so many: labels change. Filters that are not set cost no request.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from listener.sources.orthanc.rest import needs_labels
from listener.sources.orthanc.troubles import BadAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from listener.settings.orthanc import OrthancFilterSection
    from listener.sources.orthanc.answers import OrthancSeries, OrthancStudy, RemoteInstance
    from listener.sources.orthanc.rest import Orthanc

REMEMBERED: Final = 1000
REMEMBERED_S: Final = 10.0
LABEL: Final = "labels"
"""The word of the one filter whose answer may change while the instance stays the same."""

ValueT = TypeVar("ValueT")


class Filters:
    """The filters of one server; safe for use by many threads."""

    def __init__(self, only: OrthancFilterSection, orthanc: Orthanc) -> None:
        self._only = only
        self.fingerprint = only.fingerprint
        """Tells these filters from others."""
        self._has_days = only.study_date_from is not None or only.study_date_to is not None
        self._orthanc = orthanc
        self._series: _Recent[OrthancSeries] = _Recent(orthanc.series)
        self._studies: _Recent[OrthancStudy] = _Recent(orthanc.study)

    def refuses(self, instance: bytes, held: RemoteInstance) -> str | None:
        """The name of the filter that leaves it out; None where it is to be taken.

        Raises:
            OrthancTrouble: The server did not say, or has no labels.
        """
        only = self._only
        if only.ae_titles and self._orthanc.remote_ae_title(instance) not in only.ae_titles:
            return "ae_titles"
        if not (only.modalities or only.labels or self._has_days):
            return None
        series = self._series.get(held.series)
        if only.modalities and series.modality not in only.modalities:
            return "modalities"
        return self._refuses_study(held, series) if only.labels or self._has_days else None

    def _refuses_study(self, held: RemoteInstance, series: OrthancSeries) -> str | None:
        only = self._only
        study = self._studies.get(series.study)
        if self._has_days and not self._is_within(study.date):
            return "study_date"
        if only.labels and not (needs_labels(held.labels) | series.labels | study.labels) & set(only.labels):
            return LABEL
        return None

    def _is_within(self, date: str) -> bool:
        """Whether a Study Date (eight digits, PS3.5 6.2, or with dots as before 1993) is within the days asked for."""
        digits = date.replace(".", "")
        if len(digits) != 8 or not digits.isascii() or not digits.isdigit():
            return False
        first, last = self._only.study_date_from, self._only.study_date_to
        after = first is None or digits >= first.replace("-", "")
        return after and (last is None or digits <= last.replace("-", ""))


class _Recent(Generic[ValueT]):
    """What was asked lately."""

    def __init__(self, ask: Callable[[bytes], ValueT | None]) -> None:
        self._ask = ask
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, tuple[float, ValueT]] = OrderedDict()

    def get(self, key: bytes) -> ValueT:
        now = time.monotonic()
        with self._lock:
            at, value = self._known.get(key, (now - 2 * REMEMBERED_S, None))
        if value is not None and now - at < REMEMBERED_S:
            return value
        value = self._ask(key)
        if value is None:
            raise BadAnswer("the series or study of an instance is not there")
        with self._lock:
            self._known[key] = (now, value)
            self._known.move_to_end(key)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return value
