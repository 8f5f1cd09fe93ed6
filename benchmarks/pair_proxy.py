"""Does evolve's proxy rank real children, with the curvature and without?

    python benchmarks/pair_proxy.py RUN ...

RUN is a finished run of mergekit-darwin-evolve. Over the children that it merged and
measured: Spearman's rank correlation of the search score with the proxy's prior (no
child known) and with its linear fit to all the other children (one left out).
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from mergekit_darwin.evolve.diagnose import make_anchors, noise_of
from mergekit_darwin.evolve.log import LOG_NAME, Evaluation, read_log
from mergekit_darwin.evolve.reading import read_config
from mergekit_darwin.evolve.tasks import load_task_sets
from mergekit_darwin.ratios.genome import extended_genes
from mergekit_darwin.scan.report import Report, read_report
from mergekit_darwin.search.breed import rank_correlation
from mergekit_darwin.search.landscape import landscape
from mergekit_darwin.search.proxy import anchor_features, features, fit, prior_weights


def without_curvature(report: Report) -> Report:
    """Return a report as the scan gave it before it measured the curvature."""
    models = {
        role: getattr(report, role).model_copy(update={"curvature": {}})
        for role in ("father", "mother")
    }
    return report.model_copy(update=models)


def children(run: Path) -> list[Evaluation]:
    """Return a run's measured children, each genome once."""
    lines = read_log(run / LOG_NAME).values()
    real = [x for x in lines if x.phase == "real" and x.score is not None]
    return list({x.genome_hash: x for x in real}.values())


def correlations(run: Path) -> None:
    """Print a run's correlations."""
    config = read_config(run / "config.yml")
    tasks = load_task_sets(config)["search"]
    lines = list(read_log(run / LOG_NAME).values())
    family = [x for x in lines if x.phase == "parent"]
    anchors, noise = make_anchors(tasks, family), noise_of(tasks, family)
    found = children(run)
    scores = np.array([x.score for x in found])
    blocks = len(found[0].made_of.values) - len(extended_genes(1)) + 1
    columns = [gene.name for gene in extended_genes(blocks)]
    rows = np.array([[x.made_of[name] for name in columns] for x in found])
    report = read_report(config.mds or run / "mds")
    readings = {"with": report, "without": without_curvature(report)}
    known = np.array([anchors.base, anchors.father, anchors.mother]) @ anchors.weights
    prior = prior_weights(anchors)
    print(f"{run.name}: {len(found)} children, score {scores.min():.3f} to", end=" ")
    print(f"{scores.max():.3f}, noise {noise:.3f}")
    for label, reading in readings.items():
        names = [task.name for task in tasks.tasks]
        land = landscape(reading, "attribution", names, blocks)
        land = replace(land, plain=config.operator != "dare_ties")
        table = features(land, anchors, rows)
        at_family = anchor_features(land, anchors)
        fitted = []
        for left in range(len(found)):
            others = np.delete(np.arange(len(found)), left)
            given = np.vstack([at_family, table[others]])
            weights = fit(given, np.append(known, scores[others]), prior, noise)
            fitted.append(float(table[left] @ weights))
        first = rank_correlation(list(table @ prior), list(scores))
        last = rank_correlation(fitted, list(scores))
        print(f"  {label} curvature: prior {first}, fit to the others {last}")


def main() -> None:
    """Print the correlations of the named runs."""
    for name in sys.argv[1:]:
        correlations(Path(name))


if __name__ == "__main__":
    main()
