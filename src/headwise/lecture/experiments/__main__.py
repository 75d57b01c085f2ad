"""python -m headwise.lecture.experiments NAME ... [--quick]: measures again; full runs write results, quick ones compare."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from headwise.lecture.experiments import EXPERIMENTS, Workspace
from headwise.lecture.experiments.results import FOLDER, compare, read


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m headwise.lecture.experiments", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; all, if none is named")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv(.gz) and valid.tsv(.gz)")
    parser.add_argument("--runs", type=Path, default=Path("runs/lecture"), help="what is finished is kept here")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where full results are written")
    parser.add_argument("--seeds", type=int, nargs="+", help="some of an experiment's seeds; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="a part of it, anew; says where it differs and writes nothing")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in EXPERIMENTS]:
        parser.error(f"no experiment {unknown[0]!r}; there is {', '.join(EXPERIMENTS)}")
    with tempfile.TemporaryDirectory() as fresh:
        workspace = Workspace(given.data, Path(fresh) if given.quick else given.runs)
        for name in given.names or EXPERIMENTS:
            results = EXPERIMENTS[name].measure(workspace, given.quick, given.seeds)
            if given.quick:
                differing = compare(read(name, given.out), results)
                print(f"{name}: {len(results.keys)} numbers, {len(differing)} of them outside what was expected")
                for one in differing:
                    print(f"  {one}")
            else:
                print(f"wrote {results.write(given.out)}")


if __name__ == "__main__":
    main()
