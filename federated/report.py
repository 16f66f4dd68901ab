"""The report of a federated run: the federation at each site, against each site alone and against pooled scans.

    python -m federated report runs/NAME
    python -m federated report runs/NAME --sites runs/a runs/b --alone a=runs/own-a b=runs/own-b --pooled runs/pooled

A coordinator knows the metrics that the sites sent, and the scores of those that share them. Comparisons pair the same
scans, so they need the run folders of the sites: who holds them may give them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from evaluation.findings import plain
from evaluation.metrics import metrics_from_counts
from evaluation.page import environment
from evaluation.study import read_run
from evaluation.subgroups import evaluate_sites
from evaluation.uncertainty import (
    DEFAULT_RESAMPLING,
    Interval,
    PairedDifference,
    Resampling,
    bootstrap_metrics,
    paired_auc_difference,
)
from evaluation.wording import PAINTED
from machine.programs import run_program
from run_folder.files import InputError, read_json, write_json, write_text
from run_folder.layout import ModelFolder, RunFolder
from run_folder.predictions import PREDICTION_COLUMNS, check_predictions
from run_folder.tables import read_table

FEDERATED, ALONE, POOLED = "federated", "each site alone", "pooled"
WITHOUT, POOLED_WITHOUT = "federated, site left out", "pooled, site left out"
PAIRS = ((FEDERATED, ALONE), (POOLED, ALONE), (FEDERATED, POOLED), (FEDERATED, WITHOUT), (WITHOUT, POOLED_WITHOUT))
SCAN = ["participant_id", "session_id"]
SHOWN = ("auc", "sensitivity", "specificity", "accuracy")
COUNTS = ("tn", "fp", "fn", "tp")
TITLES = {"auc": "AUC", "within_site_auc": "AUC within sites"} | {name: name.capitalize() for name in SHOWN[1:]}


def write_federated_report(
    run_folder: Path,
    *,
    sites: Sequence[Path] = (),
    alone: Mapping[str, Path] | None = None,
    pooled: Path | None = None,
    left_out: Path | None = None,
    resampling: Resampling = DEFAULT_RESAMPLING,
) -> Path:
    """Write ``report.html`` and ``cv_metrics.json`` in the coordinator's run folder. They name no infant.

    Args:
        run_folder: of the coordinator, with all folds finished. Run folders next to it that leave a site out are read.
        sites: the run folders of all sites in this federation; without them there is no comparison.
        alone: site -> a run of ``train.py`` on its scans.
        pooled: a run of ``train.py`` on the scans of all sites.
        left_out: a run of ``train.py --split site`` on them.
        resampling: of the bootstrap of families.

    Returns:
        The path of ``report.html``.

    Raises:
        InputError: a run is not finished or damaged, or two runs do not have the same scans.
    """
    run = RunFolder(run_folder)
    federation, answers = _answers(run)
    others = {"--alone": alone, "--pooled": pooled, "--left_out": left_out}
    if not sites and (given := [flag for flag, value in others.items() if value]):
        raise InputError(f"{given[0]} compares the same scans: give the run folder of every site with --sites.")
    methods = _of_sites(run, federation, answers, sites) if sites else _of_scores(run, answers)
    if alone:
        tables = [_of_run(path, methods[FEDERATED], site) for site, path in alone.items()]
        methods[ALONE] = pd.concat(tables, ignore_index=True)
    for title, path in ((POOLED, pooled), (POOLED_WITHOUT, left_out)):
        if path:
            methods[title] = _of_run(path, methods[FEDERATED])
    told = {FEDERATED: _told(answers[FEDERATED]), WITHOUT: _told(answers[WITHOUT])}
    facts = [site for folds in answers[FEDERATED].values() for site in folds]
    context = {
        "name": run.name,
        "sites": federation["sites"],
        "rounds": int(federation["recipe"]["num_train_epochs"]) // int(federation["local_epochs"]),
        "folds": federation["recipe"]["num_folds"],
        "phantom": any(site.get("synthetic") for site in facts),
        "painted": PAINTED if any(site.get("painted") for site in facts) else "",
        "told": {title: rows for title, rows in told.items() if rows},
        "methods": {title: _method(table, resampling) for title, table in methods.items()},
        "differences": _differences(methods, resampling) if sites else [],
        "silent": sorted({row["site"] for row in told[FEDERATED]} - set(methods[FEDERATED]["site"])),
        "paired": bool(sites),
        "titles": TITLES,
        "draws": resampling.draws,
    }
    write_json(run.cv_metrics, _numbers(context))
    page = environment(Path(__file__).parent).get_template("report_federated.html.jinja").render(context)
    return write_text(run.report, page)


def _answers(run: RunFolder) -> tuple[dict[str, Any], dict[str, dict[str, list[dict[str, Any]]]]]:
    """What the coordinator noted of the federation, and method -> site -> what it answered in each fold."""
    if not run.federation.is_file():
        raise InputError(
            f"{run} holds no federated run: give the --output_dir of the server, once all folds are trained (--fold "
            "all). Runs with --leave_out are only added to these."
        )
    federation = read_json(run.federation)
    try:
        sites, folds = [str(site) for site in federation["sites"]], run.folds(federation["recipe"]["num_folds"])
        if missing := [str(fold.path.name) for fold in folds if not fold.site_metrics.is_file()]:
            raise InputError(
                f"{run} is not finished: {', '.join(missing)} missing ({len(folds) - len(missing)} of {len(folds)} "
                "folds done). Run `python -m federated run` again with --fold all."
            )
        told = {fold.path.name: read_json(fold.site_metrics)["sites"] for fold in folds}
        joint = {site: [of_sites[site] for of_sites in told.values()] for site in sites}
        without = {}
        for site in sites:
            metrics = run.without(site).refit.site_metrics
            if metrics.is_file() and (of_site := read_json(metrics)["sites"].get(site)):  # absent sites answer nothing
                without[site] = [of_site]
    except (LookupError, TypeError) as error:
        raise InputError(f"{run} is damaged ({type(error).__name__}: {error}): restore it.") from error
    return federation, {FEDERATED: joint, WITHOUT: without}


def _told(answers: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What each site said of its held-out scans: counts over all folds, and the mean AUC of the folds that have one."""
    rows = []
    for site, folds in answers.items():
        metrics = [fold["metrics"] for fold in folds if fold["metrics"]]
        counts = {name: sum(each["confusion_matrix"][name] for each in metrics) for name in COUNTS}
        aucs = [each["auc"] for each in metrics if each["auc"] is not None]
        values, _ = metrics_from_counts(**counts)
        rows.append(
            {
                "site": site,
                "n": sum(counts.values()),
                **counts,
                **{name: values[name] for name in SHOWN[1:]},
                "mean_auc": sum(aucs) / len(aucs) if aucs else None,
                "auc_folds": len(aucs),
            }
        )
    return rows


def _of_scores(run: RunFolder, answers: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Site, family, label and p_injury of the sites that share their scores. A family is known within a fold only."""
    folders = {FEDERATED: [fold for fold in run.existing_folds()]}
    folders[WITHOUT] = [run.without(site).refit for site in answers[WITHOUT]]
    empty = pd.DataFrame({"site": [], "family": [], "label": [], "p_injury": []})
    methods = {}
    for title, models in folders.items():
        tables = [_scores(model) for model in models if model.scores.is_file()]
        if title == WITHOUT:  # the sites that trained hold out no scan there
            tables = [table for table in tables if len(table)]
        methods[title] = pd.concat(tables, ignore_index=True) if tables else empty
    return {title: table for title, table in methods.items() if len(table) or title == FEDERATED}


def _scores(model: ModelFolder) -> pd.DataFrame:
    table = read_table(model.scores, ("site", "family", "label", "p_injury")).astype({"site": str})
    return table.assign(
        family=[f"{model.path} {site} {n}" for site, n in zip(table["site"], table["family"], strict=True)]
    )


def _of_sites(
    run: RunFolder, federation: Mapping[str, Any], answers: Mapping[str, Any], folders: Sequence[Path]
) -> dict[str, pd.DataFrame]:
    """The same with ids, from the run folders of the sites."""
    own: dict[str, RunFolder] = {}
    for path in folders:
        site = _site_of(RunFolder(path), federation)
        if site in own:
            raise InputError(f"{own[site]} and {path} are both of the site {site}: give each once.")
        own[site] = RunFolder(path)
    if missing := sorted({*federation["sites"]} - own.keys()):
        raise InputError(f"The run folder of {', '.join(missing)} is missing in --sites: give those of all sites.")
    joint, without = [], []
    for site, folder in own.items():
        for fold, told in zip(folder.folds(federation["recipe"]["num_folds"]), answers[FEDERATED][site], strict=True):
            if sum(told["held_out"]):
                joint.append(_predictions(fold, site))
        if site in answers[WITHOUT]:
            _site_of(folder.without(site), read_json(run.without(site).federation))
            without.append(_predictions(folder.without(site).refit, site))
    methods = {FEDERATED: pd.concat(joint, ignore_index=True)}
    return methods | ({WITHOUT: pd.concat(without, ignore_index=True)} if without else {})


def _site_of(folder: RunFolder, federation: Mapping[str, Any]) -> str:
    found = read_json(folder.federation) if folder.federation.is_file() else {}
    if found.get("identity") != federation["identity"]:
        raise InputError(f"{folder} is not the run folder of a site in this federated run: check --sites.")
    return str(found.get("site"))


def _predictions(model: ModelFolder, site: str) -> pd.DataFrame:
    table = check_predictions(read_table(model.predictions, PREDICTION_COLUMNS), str(model.predictions))
    return table.assign(site=site)[["site", *SCAN, "family", "label", "p_injury"]]


def _of_run(path: Path, scans: pd.DataFrame, site: str | None = None) -> pd.DataFrame:
    """The predictions of a run of `train.py` for the scans of the federation, or of one of its sites."""
    if site is not None and site not in set(scans["site"]):
        raise InputError(f"There is no site {site} in the federation: it has {', '.join(sorted(set(scans['site'])))}.")
    wanted = scans if site is None else scans[scans["site"] == site]
    if wanted.duplicated(SCAN).any():
        raise InputError("Two sites use the same id, so their scans cannot be told apart in a pooled run: rename them.")
    found = read_run(path).table[[*SCAN, "label", "p_injury"]]
    joined = wanted.drop(columns="p_injury").merge(found, on=SCAN, how="outer", suffixes=("", "_run"), indicator=True)
    lost, new = (int((joined["_merge"] == side).sum()) for side in ("left_only", "right_only"))
    if lost or new:
        raise InputError(
            f"{path} does not have the scans of {site or 'the federation'}: it lacks {lost} and has {new} others. "
            "Train it on the same scans."
        )
    if (joined["label"] != joined["label_run"]).any():
        raise InputError(f"{path} has other labels than {site or 'the federation'}: train it with the same labels.")
    return joined.drop(columns=["_merge", "label_run"])


def _method(table: pd.DataFrame, resampling: Resampling) -> dict[str, Any]:
    """The metrics of each site, and of all scans."""
    if table.empty:
        return {"sites": [], "all": {}}
    label, p, family, site = (table[name].to_numpy() for name in ("label", "p_injury", "family", "site"))
    every = bootstrap_metrics(label, p, family, folds=site, resampling=resampling)
    every["within_site_auc"] = every.pop("within_fold_auc")
    parts = evaluate_sites(table, resampling=resampling, fewest=1)
    return {"sites": parts, "all": {name: every[name] for name in TITLES}, "n": len(table)}


def _differences(methods: Mapping[str, pd.DataFrame], resampling: Resampling) -> list[dict[str, Any]]:
    """AUC of one method minus that of another on the same scans: at each site, and within sites over all."""
    rows = []
    for a, b in PAIRS:
        if a not in methods or b not in methods:
            continue
        columns = ["site", *SCAN]
        both = methods[a].merge(methods[b][[*columns, "p_injury"]], on=columns, suffixes=("", "_b"), validate="1:1")
        parts = {site: part for site, part in both.groupby("site") if part["label"].nunique() == 2}
        of_sites = {site: _difference(part, resampling) for site, part in parts.items()}
        over_all = _difference(both, resampling, within=True) if parts else None
        rows.append({"a": a, "b": b, "n": len(both), "sites": of_sites, "all": over_all})
    return rows


def _difference(table: pd.DataFrame, resampling: Resampling, within: bool = False) -> PairedDifference:
    label, a, b, family = (table[name].to_numpy() for name in ("label", "p_injury", "p_injury_b", "family"))
    return paired_auc_difference(label, a, b, family, resampling, folds=table["site"].to_numpy() if within else None)


def _numbers(context: Mapping[str, Any]) -> dict[str, Any]:
    """The content of ``cv_metrics.json``."""

    def intervals(values: Mapping[str, Interval]) -> dict[str, Any]:
        return {name: {"estimate": i.estimate, "low": i.low, "high": i.high} for name, i in values.items()}

    methods = {
        title: {
            "all": intervals(method["all"]),
            "sites": {
                part.name: {"n": part.n, "n_injury": part.n_injury, "n_families": part.n_families}
                | intervals(part.metrics)
                for part in method["sites"]
            },
        }
        for title, method in context["methods"].items()
    }
    differences = [
        {
            "a": row["a"],
            "b": row["b"],
            "n": row["n"],
            "within_sites": row["all"] and intervals({"auc": row["all"].difference})["auc"] | {"p": row["all"].p_value},
            "sites": intervals({site: pair.difference for site, pair in row["sites"].items()}),
        }
        for row in context["differences"]
    ]
    content = {"told": context["told"], "methods": methods, "differences": differences, "draws": context["draws"]}
    numbers: dict[str, Any] = plain(content)
    return numbers


def _site_run(text: str) -> tuple[str, Path]:
    site, _, path = text.partition("=")
    if not site or not path:
        raise argparse.ArgumentTypeError(f"{text} is not SITE=RUN, such as north=runs/north-alone")
    return site, Path(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0 report written, 1 a run cannot be used, 2 wrong call."""
    parser = argparse.ArgumentParser(
        prog="python -m federated report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="the --output_dir of the server")
    add(
        "--sites", type=Path, nargs="+", default=[], metavar="RUN", help="the run folders of all sites, for comparisons"
    )
    add(
        "--alone",
        type=_site_run,
        nargs="+",
        default=[],
        metavar="SITE=RUN",
        help="runs of train.py, each on the scans of one site",
    )
    add("--pooled", type=Path, metavar="RUN", help="a run of train.py on the scans of all sites")
    add("--left_out", type=Path, metavar="RUN", help="a run of train.py --split site on the scans of all sites")
    options = parser.parse_args(argv)

    def job() -> None:
        others = {"sites": options.sites, "pooled": options.pooled, "left_out": options.left_out}
        print(write_federated_report(options.run, alone=dict(options.alone), **others))

    return run_program(parser.prog, job, failed=(InputError, OSError), interrupted="interrupted")
