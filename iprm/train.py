"""Train a question-answering model, or go on with a training that stopped.

    python -m iprm.train small                   # on generated questions: half an hour on a core
    python -m iprm.train my.yaml training.lr=0.0005 folder=build/other

The configuration is `iprm.vqa.training.config.Config`: a file, or the name of one in
`iprm/vqa/training/configs/`. Under `torchrun --nproc-per-node=2 -m iprm.train ...` the processes
train one model together.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from iprm_kernels.extras import extra

with extra("train", __name__):
    from rich.console import Console
    from rich.table import Table

    from iprm.vqa.training import config as configs
    from iprm.vqa.training.config import Config, configuration
    from iprm.vqa.training.run import QUIET, train

PACKAGED = {path.stem: path for path in Path(configs.__file__).parent.glob("configs/*.yaml")}


def _config(arguments: list[str]) -> Config:
    """Return the configuration of a file, if the first argument is one or names one, and of the overrides."""
    paths = [PACKAGED.get(argument, Path(argument)) for argument in arguments[:1] if "=" not in argument]
    overrides = arguments[len(paths) :]
    if wrong := [override for override in overrides if "=" not in override]:
        raise ValueError(f"{wrong[0]}: expected key=value")
    return configuration(*paths, overrides=overrides)


def _table(result: dict[str, Any]) -> Table:
    """Return the accuracy by family beside the strongest prior, which is not known by question."""
    table = Table(title="Validation accuracy, %")
    for name in ("family", "prior", "model"):
        table.add_column(name, justify="left" if name == "family" else "right")
    priors = result["priors"]["kind"]
    for family, share in result["accuracy"].items():
        prior = f"{100 * priors[family]:.1f}" if family in priors else ""
        table.add_row(family, prior, f"{100 * share:.1f}")
    return table


def main(argv: list[str] | None = None) -> int:
    """Run the command; 0 where training finished, 2 for wrong arguments or files, 130 where it was interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m iprm.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="CONFIG.yaml key=value",
        help=f"a file or one of {', '.join(sorted(PACKAGED))}, and what overrides it",
    )
    console = Console() if os.environ.get("RANK", "0") == "0" else QUIET
    try:
        trained = train(_config(parser.parse_args(argv).arguments), console)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupted:
        print(f"interrupted: {str(interrupted) or 'no step was under way'}", file=sys.stderr)
        return 130
    result: dict[str, Any] = trained.result  # pyright: ignore[reportAssignmentType] - it has finished
    console.print(_table(result))
    console.print(f"{trained.folder}: {result['steps']} steps, {result['steps_per_second']:.1f} a second")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
