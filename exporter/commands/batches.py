"""`exporter backfill --engine ...` beyond this process, and `exporter backfill status|resume|cancel OUT`.

Contract: what is known is in OUT, so that any host that sees it can ask, go on or cancel.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path  # noqa: TC003 - cyclopts reads the annotations at run time
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from exporter.commands import CommandError, ExitCode
from exporter.commands.batch import OutArgument, merged
from exporter.commands.options import in_words
from listener.foundation.signals import stopping
from listener.foundation.text import printable

if TYPE_CHECKING:
    from exporter.batches.engines.contract import BatchEngine
    from exporter.batches.plan import BatchPlan
    from exporter.batches.rounds import RoundState
    from exporter.batches.view import BatchesView
    from exporter.inputs.backfill import BackfillRequest
    from exporter.settings.settings import Settings


def start(request: BackfillRequest, engine: str, *, batches: int | None, only_print: bool) -> int:
    """Plan, submit, and for engines that live as long as this process, wait and merge."""
    from exporter.batches.engines.contract import EngineUnusable
    from exporter.batches.journal import runs_of
    from exporter.batches.plan import ROUNDS, make_plan
    from exporter.batches.rounds import RoundState

    settings = request.settings
    with in_words():
        plan = _planned_for_slurm(request, batches) if engine == "slurm" else make_plan(request, batches)
        if plan is None:
            return ExitCode.INTERRUPTED
        state = RoundState(engine, settings.engine.max_rounds, request.workers, settings.engine.scheduler)
        if only_print:
            return _print_slurm(plan, settings)
        state.claim(plan)
    try:
        return _go_on(plan, state)
    except EngineUnusable:
        if state.round <= 1 and not any(map(runs_of, map(plan.folder_of, range(1, len(plan.batches) + 1)))):
            (plan.root / ROUNDS).unlink()  # nothing was started: the same command may be given again
        raise


def _planned_for_slurm(request: BackfillRequest, batches: int | None) -> BatchPlan | None:
    """A plan of batches that take half of the time limit, as far as the site permits so many.

    Returns:
        None where a signal said stop.

    Raises:
        CommandError: The site does not permit so many batches.
    """
    from exporter.batches.engines.slurm import SlurmEngine
    from exporter.batches.estimate import sizing
    from exporter.batches.plan import make_plan, refuse_unplannable

    options, site, stop = request.settings.engine.slurm, SlurmEngine.most_tasks(), threading.Event()
    if batches is not None:
        if batches > site:
            sentence = f"--batches {batches}: this Slurm takes arrays of at most {site} tasks (MaxArraySize)"
            raise CommandError(f"{sentence}; give fewer", ExitCode.USAGE)
        return make_plan(request, batches)
    refuse_unplannable(request)
    task_s, sized = SlurmEngine.seconds_of(options.time) if options.time is not None else None, None
    if task_s is not None:
        print("trying some files, for batches that take half of the time limit", file=sys.stderr)
        with stopping(stop):
            sized = sizing(request, stop, task_s=task_s, cores=options.cpus)
    return None if stop.is_set() else make_plan(request, most=min(site, options.max_tasks), sizing=sized)


def _print_slurm(plan: BatchPlan, settings: Settings) -> int:
    from exporter.batches.engines.slurm import SlurmEngine

    engine = SlurmEngine(plan.output, settings)
    print(engine.array([batch.number for batch in plan.batches]))
    print(engine.after("JOB_OF_THE_ARRAY"))
    return ExitCode.DONE


def _go_on(plan: BatchPlan, state: RoundState) -> int:
    """Submit what is left; merge where nothing is."""
    from exporter.batches.run_note import cancellable

    stop = threading.Event()
    with stopping(stop), cancellable(plan.output, stop):
        return _driven(plan, state, stop)


def _driven(plan: BatchPlan, state: RoundState, stop: threading.Event) -> int:
    from exporter.batches.rounds import drive, next_round

    with in_words():
        settings = plan.settings()
        if state.engine == "slurm":
            from exporter.batches.engines.slurm import SlurmEngine

            batches = next_round(plan, state)
            if batches:
                SlurmEngine(plan.output, settings).submit(batches)
                print(f"round {state.round}: {len(batches)} batches submitted; `exporter backfill status` shows them")
                return ExitCode.DONE
        elif not drive(plan, state, _engine(plan, state, settings), stop):
            print("stopped; `exporter backfill resume OUT` goes on where it stopped", file=sys.stderr)
            return ExitCode.INTERRUPTED
    _print_stuck(state)
    return merged(plan.output, stop, incomplete=True)


def _engine(plan: BatchPlan, state: RoundState, settings: Settings) -> BatchEngine:
    workers = settings.workers if state.workers is None else state.workers
    if state.engine == "dask":
        from exporter.batches.engines.dask_tasks import DaskEngine

        return DaskEngine(plan.output, state.scheduler)
    from exporter.batches.engines.processes import ProcessesEngine

    return ProcessesEngine(plan.output, max(1, workers), min(1, workers))


def _print_stuck(state: RoundState) -> None:
    if state.stuck:
        numbers = ", ".join(map(str, state.stuck[:20]))
        print(f"stuck, no progress in the last round: batches {numbers}", file=sys.stderr)


def estimate(request: BackfillRequest, *, as_json: bool) -> int:
    """Print what a backfill will cost."""
    from exporter.batches.estimate import estimate as estimated
    from listener.foundation import logs

    logs.configure("warning", request.settings.log.format)
    stop = threading.Event()
    with stopping(stop):
        found = estimated(request, stop)
    if stop.is_set():
        return ExitCode.INTERRUPTED
    if as_json:
        print(json.dumps(found.as_json()))
        return ExitCode.DONE
    time, size = found.core_seconds.divided(3600.0), found.output_bytes.divided(1e9)
    print(f"{found.files} files, {found.input_bytes / 1e9:.2f} GB; {found.sampled} of them were exported as a sample")
    for kind, number in found.kinds.items():
        print(f"{kind:<24}{number:>10}")
    print(f"hours of one worker     {time.expected:>10.2f}   between {time.low:.2f} and {time.high:.2f}")
    print(f"GB of media             {size.expected:>10.2f}   between {size.low:.2f} and {size.high:.2f}")
    cores = ", ".join(f"{found.cores_for(hours * 3600.0)} for {hours} h" for hours in (1, 8, 24))
    print(f"workers for a deadline  {cores}")
    return ExitCode.DONE


def status(
    out: OutArgument,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")] = False,
) -> int:
    """Show how far the batches of a backfill are."""
    from exporter.batches.view import look_at

    with in_words():
        view = look_at(_plan_in(out.expanduser()))
    print(json.dumps(view.as_json()) if as_json else _table(view))
    return ExitCode.DONE


def _table(view: BatchesView) -> str:
    numbers = f"done {view.done}, running {view.running}, waiting {view.waiting}, stuck {len(view.stuck)}"
    lines = [
        f"batches     {view.batches:>10}   {numbers}",
        f"files       {view.units:>10}   round {view.round}{_standing(view)}",
        f"exported    {view.exported:>10}",
    ]
    for word, reasons in (("skipped", view.skipped), ("failed", view.failed)):
        why = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
        lines.append(f"{word:<12}{sum(reasons.values()):>10}" + (f"   {why}" if why else ""))
    if view.seconds_left is not None:
        lines.append(f"rate        {view.rate:>10.1f}   instances per second, {view.seconds_left} s left")
    lines += [f"refused     {count:>10}   {printable(sentence)}" for sentence, count in view.refusals.items()]
    return "\n".join(lines)


def _standing(view: BatchesView) -> str:
    if view.is_merged:
        return ", merged"
    if view.at_work:
        return f", {len(view.at_work)} commands at work"
    return ", cancelled" if view.is_cancelled else ", no command at work"


def resume(
    out: OutArgument,
    /,
    *,
    in_job: Annotated[
        bool, Parameter(negative="", help="For the job that follows an array: the tasks before it have ended.")
    ] = False,
) -> int:
    """Submit the batches that are not complete, with the engine of the first time; merge where all are."""
    with in_words():
        plan, state = _submitted(out)
        if not in_job:
            _refuse_alive(plan, state)
            state.round, state.stuck, state.marks, state.ends, state.is_cancelled = 0, [], {}, {}, False
    return _go_on(plan, state)


def _submitted(out: Path) -> tuple[BatchPlan, RoundState]:
    """Plan and state of the rounds.

    Raises:
        CommandError: Nothing was submitted.
    """
    from exporter.batches.rounds import RoundState

    plan = _plan_in(out.expanduser())
    state = RoundState.read(plan)
    if state is None:
        raise CommandError(f"the plan in {out} was not submitted to an engine; `exporter batch commands` lists it")
    return plan, state


def _plan_in(out: Path) -> BatchPlan:
    """The plan in an output folder.

    Raises:
        CommandError: A backfill without batches has worked there.
        BatchUnusable: There is no plan, or it cannot be read.
    """
    from exporter.batches.plan import BatchPlan
    from exporter.inputs.backfill import BATCHES

    if not (out / BATCHES).exists() and (out / "exporter.db").exists():
        raise CommandError(
            f"there are no batches in {out}; `exporter status --data {out}` shows a backfill without them, and its own"
            " command goes on with it"
        )
    return BatchPlan.read(out)


def _refuse_alive(plan: BatchPlan, state: RoundState) -> None:
    """Return where no batch runs that this command would start a second time.

    Raises:
        CommandError: Some do.
    """
    from exporter.batches.view import look_at

    view = look_at(plan)
    if view.is_merged:
        return
    alive = max(view.running, len(view.at_work))
    if state.engine == "slurm":
        from exporter.batches.engines.slurm import SlurmEngine

        engine = SlurmEngine(plan.output, plan.settings())
        alive = len(engine.alive()) or int(engine.is_followed())
    if alive:
        raise CommandError(
            f"{alive} batches or commands still wait or run; wait for them, or `exporter backfill cancel {plan.output}`"
        )


def cancel(
    out: Annotated[Path, Parameter(name="OUT", help="Output folder of a backfill that runs, in batches or not.")], /
) -> int:
    """Stop a backfill.

    What is finished stays; `resume`, or the same command where there are no batches, goes on.
    """
    from exporter.batches.plan import BatchPlan, is_merged
    from exporter.batches.rounds import RoundState
    from exporter.batches.run_note import cancel as cancel_all
    from exporter.inputs.backfill import BATCHES

    out = out.expanduser()
    with in_words():
        plan = BatchPlan.read(out) if (out / BATCHES).is_dir() and not is_merged(out / BATCHES) else None
        state = None if plan is None else RoundState.read(plan)
        by_slurm = plan is not None and state is not None and state.engine == "slurm"
        if plan is not None and by_slurm:
            from exporter.batches.engines.slurm import SlurmEngine

            SlurmEngine(plan.output, plan.settings()).cancel()
        asked = cancel_all(out, waits=not by_slurm)  # Slurm has waited; what it has killed on other hosts looks alive
        if plan is not None and state is not None and not is_merged(plan.root):
            state = RoundState.read(plan) or state  # as the command that drives the rounds has left it
            state.is_cancelled = True
            state.write(plan)
        elif not asked:
            raise CommandError(f"no backfill runs into {out}; `exporter status --data {out}` says what there is")
    goes_on = "the same command" if state is None else "`exporter backfill resume OUT`"
    print(f"cancelled; {goes_on} goes on where it stopped")
    return ExitCode.DONE
