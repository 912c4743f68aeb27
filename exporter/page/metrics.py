"""The standing as metrics, in Prometheus's text format 0.0.4 and in OpenMetrics 1.0.0.

Contract: every label comes from a closed set (states, reasons, daemons, disks, latency classes, and sources that the
configuration names: all others are `other`), so that no sender can make the list grow. Names and labels are ours and
stable; `METRICS` lists every one, and the dashboard and the alert rules name no other.

Source: prometheus.io, "Exposition formats"; OpenMetrics 1.0.0 (openmetrics.io), 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from exporter.results.ledger.schema import BEYOND_S, LATENCY_BOUNDS_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from exporter.page.standing import Standing
    from exporter.results.ledger.browsing import MinuteNumbers

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"

Kind = Literal["gauge", "counter", "histogram", "info"]

METRICS: Final[Mapping[str, tuple[Kind, str]]] = {
    "dicom_build": ("info", "Version of the exporter."),
    "dicom_up": ("gauge", "Whether a daemon runs and responds."),
    "dicom_well": ("gauge", "Whether nothing is wrong."),
    "dicom_problems": ("gauge", "Problems by level."),
    "dicom_ledger_readable": ("gauge", "Whether the ledger can be read; without it, numbers of instances are missing."),
    "dicom_instances": ("gauge", "Instances by state."),
    "dicom_failures": ("gauge", "Instances that failed for good, by reason."),
    "dicom_queue_oldest_seconds": ("gauge", "Time for which the oldest waiting instance has waited."),
    "dicom_overdue": ("gauge", "Pending instances whose next attempt is late."),
    "dicom_paused": ("gauge", "Whether the exporter pauses for lack of space."),
    "dicom_disk_free_bytes": ("gauge", "Free bytes of the disk that holds it."),
    "dicom_disk_size_bytes": ("gauge", "Size of the disk that holds it."),
    "dicom_finished": ("counter", "Outcomes by state."),
    "dicom_input_bytes": ("counter", "Sizes of the inputs of all outcomes."),
    "dicom_latency_seconds": ("histogram", "Time from arrival to outcome of received instances."),
    "dicom_arrived": ("counter", "Instances that arrived, by source."),
    "dicom_last_arrival_timestamp_seconds": ("gauge", "Time of the last arrival, by source."),
    "dicom_source_silent": ("gauge", "Whether a source from which something is expected is silent."),
}
"""Every metric: its kind and its meaning."""

Sample = tuple[str, "Mapping[str, str]", float]
"""Ending of the name, labels and value."""


def exposition(standing: Standing, ever: MinuteNumbers | None, named: frozenset[str], *, open_metrics: bool) -> str:
    """The metrics as text.

    Args:
        standing: How everything stands.
        ever: Outcomes of all times; None where the ledger cannot be read.
        named: Sources that the configuration names.
        open_metrics: Whether in OpenMetrics rather than in Prometheus's own format.
    """
    lines: list[str] = []
    for name, samples in _families(standing, ever, named):
        kind, meaning = METRICS[name]
        family = name
        if not open_metrics:
            family += {"counter": "_total", "info": "_info"}.get(kind, "")
            kind = "gauge" if kind == "info" else kind
        lines += [f"# HELP {family} {meaning}", f"# TYPE {family} {kind}"]
        lines += [f"{name}{ending}{_labels(labels)} {_number(value)}" for ending, labels, value in samples]
    if open_metrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def _families(
    standing: Standing, ever: MinuteNumbers | None, named: frozenset[str]
) -> Iterator[tuple[str, Iterable[Sample]]]:
    yield "dicom_build", [("_info", {"version": standing.version}, 1)]
    yield "dicom_up", [("", {"daemon": name}, state == "running") for name, state in standing.daemons.items()]
    yield "dicom_well", [("", {}, standing.well)]
    levels = [problem.level for problem in standing.problems]
    yield "dicom_problems", [("", {"level": level}, levels.count(level)) for level in ("fault", "attention")]
    yield "dicom_ledger_readable", [("", {}, ever is not None)]
    if ever is not None:
        yield from _instances(standing, ever)
    yield "dicom_queue_oldest_seconds", [("", {}, standing.oldest_s or 0)]
    yield "dicom_paused", [("", {}, standing.paused is not None)]
    disks = [(place, disk) for disk in standing.disks for place in disk.places]
    yield "dicom_disk_free_bytes", [("", {"holds": place}, disk.free_bytes) for place, disk in disks]
    yield "dicom_disk_size_bytes", [("", {"holds": place}, disk.total_bytes) for place, disk in disks]
    yield from _sources(standing, named)


def _instances(standing: Standing, ever: MinuteNumbers) -> Iterator[tuple[str, Iterable[Sample]]]:
    from exporter.errors import Reason

    states = ("pending", "active", "exported", "skipped", "quarantined", "failed")
    yield "dicom_instances", [("", {"state": state}, getattr(standing, state)) for state in states]
    failed = [standing.reasons.get(state, {}) for state in ("failed", "quarantined")]
    reasons = [(str(reason), sum(found.get(reason, 0) for found in failed)) for reason in Reason]
    yield "dicom_failures", [("", {"reason": reason}, number) for reason, number in reasons]
    yield "dicom_overdue", [("", {}, standing.overdue)]
    finals = ("exported", "skipped", "quarantined", "failed")
    yield "dicom_finished", [("_total", {"state": state}, ever.by_state.get(state, 0)) for state in finals]
    yield "dicom_input_bytes", [("_total", {}, ever.bytes)]
    seen = 0
    samples: list[Sample] = []
    for bound in (*LATENCY_BOUNDS_S, BEYOND_S):
        seen += ever.by_latency.get(bound, 0)
        samples.append(("_bucket", {"le": "+Inf" if bound == BEYOND_S else f"{bound}.0"}, seen))
    yield "dicom_latency_seconds", [*samples, ("_count", {}, seen), ("_sum", {}, ever.seconds)]


def _sources(standing: Standing, named: frozenset[str]) -> Iterator[tuple[str, Iterable[Sample]]]:
    sources = [one for one in standing.sources if one.name in named or one.name == "other"]
    yield "dicom_arrived", [("_total", {"source": one.name}, one.number) for one in sources]
    yield (
        "dicom_last_arrival_timestamp_seconds",
        [("", {"source": one.name}, one.last) for one in sources if one.last is not None],
    )
    expected = [one for one in sources if one.expected_every is not None]
    yield "dicom_source_silent", [("", {"source": one.name}, one.silent_s is not None) for one in expected]


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    plain = value.encode("utf-8", "backslashreplace").decode()
    return plain.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, bool) or float(value).is_integer() else repr(float(value))
