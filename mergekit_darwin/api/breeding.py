"""Refit, breed, consensus: what goes on from a merge, and who descends from whom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergekit_darwin.api.merging import PathLike, probes_of
from mergekit_darwin.errors import refuse_unknown

if TYPE_CHECKING:
    from mergekit_darwin.delphi.report import Report as Consensus
    from mergekit_darwin.evolve.family import Member
    from mergekit_darwin.evolve.finish import Finished
    from mergekit_darwin.evolve.options import RunOptions
    from mergekit_darwin.refit.report import RefitReport
    from mergekit_darwin.scan.probes import Probe


def refit_child(
    child: str,
    father: str,
    mother: str,
    base: str | None = None,
    *,
    out: PathLike,
    probes: PathLike | Sequence[Probe] | None = None,
    father_probes: Sequence[str] = (),
    mother_probes: Sequence[str] = (),
    keep_texts: PathLike | None = None,
    items: int | None = None,
    progress: bool = False,
    **options: Any,
) -> RefitReport:
    """Solve a merged child's maps anew, so that its layers do what its parents' do.

    child: a merge of father and mother by any tool; the refitted one is written into
    the new folder out. probes: texts of the parents' skills; one that no parent is
    named for is fitted to the parent whose loss on it is lower. keep_texts: general
    texts on which the child stays as it is, by default those of the package. items: at
    most so many of a probe. options are those of refit.options.RefitOptions (ridge,
    keep_weight, targets, ...) and of talk.ProbeOptions. Raises DarwinError, leaving
    nothing.
    """
    from mergekit_darwin.refit.options import refit_options
    from mergekit_darwin.refit.run import refit
    from mergekit_darwin.refit.texts import TextChoice
    from mergekit_darwin.talk import bar

    models = {"child": child, "father": father, "mother": mother}
    models |= {"base": base} if base else {}
    named = {"father": father_probes, "mother": mother_probes}
    choice = TextChoice(tuple(probes_of(probes)), named, keep_texts, items)
    chosen = refit_options(options)
    with bar("layers", progress) as advance:
        return refit(models, Path(out), choice, chosen, advance)


def breed(
    config: PathLike,
    folder: PathLike,
    **options: Any,
) -> Finished:
    """Breed a child as an EVOLVE.yml says, in a folder of the run; return what is left.

    Called again after a stop it goes on where it was and ends with the same bytes.
    options are the fields of evolve.options.RunOptions (reuse_mds, max_evaluations,
    strategy, device ...). Raises DarwinError, and evolve.record.Interrupted after
    Ctrl-C.
    """
    from mergekit_darwin.evolve.reading import read_config
    from mergekit_darwin.evolve.run import evolve

    return evolve(read_config(config), Path(folder), _run_options(options))


def check_breeding(
    config: PathLike,
    **options: Any,
) -> Iterator[str]:
    """Yield what is known of a run before it begins, everything checked, line by line.

    Takes what breed takes; the Father is scored on ten items of every task. Raises
    DarwinError for whatever would stop the run.
    """
    from mergekit_darwin.evolve.reading import read_config
    from mergekit_darwin.evolve.run import check

    return check(read_config(config), _run_options(options))


def start_breeding(
    out: PathLike,
    father: str,
    mother: str,
    base: str | None = None,
    items: Sequence[str] = (),
) -> list[Path]:
    """Write an EVOLVE.yml for two models, and one task a file of items; return them.

    A file of items is JSONL of prompt and completion, or question, choices and answer.
    Raises DarwinError for an item that is neither, and where a file is there already.
    """
    from mergekit_darwin.evolve.init import write_config

    return write_config(Path(out), father, mother, base, items)


def _run_options(given: Mapping[str, Any]) -> RunOptions:
    from mergekit_darwin.evolve.options import RunOptions

    refuse_unknown(given, RunOptions.__dataclass_fields__)
    return RunOptions(**given)


def consensus(
    model: str | Any, tasks: str | Sequence[str], out: PathLike, **options: Any
) -> Consensus:
    """Answer generative tasks by a vote over samples, stopped early; return a report.

    model is a path, a hub name, or an open model of lm-evaluation-harness. Writes
    samples.jsonl, report.json, report.md and delphi.png into the folder out; called
    again with the same arguments it goes on where it was stopped. options are the
    fields of delphi.options.Options (samples, stage, risk, temperature, shadow, ...).
    Raises DarwinError for tasks that cannot be voted on.
    """
    from mergekit_darwin.delphi.options import make_options
    from mergekit_darwin.delphi.run import consensus as run

    names = [tasks] if isinstance(tasks, str) else tasks
    return run(model, names, out, make_options(**options))


def family(model: PathLike) -> Member:
    """Return who a model on this machine descends from, as its card says.

    A card that is not to be trusted is quoted in `note` and not followed. The tree
    prints by evolve.family.lines and draws by evolve.family.draw_family. Raises
    DarwinError if there is no such folder.
    """
    from mergekit_darwin.evolve.family import family as read

    return read(model)
