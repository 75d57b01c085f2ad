"""The command ``headwise``."""

import typer

from headwise.cli.heads import compare, heads, prune
from headwise.cli.lecture import app as lecture
from headwise.cli.models import models
from headwise.cli.translation import evaluate, look, run, train

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Multi-head attention: train it, look into it, teach it.")
for command in (look, run, evaluate, train, heads, prune, compare, models):
    app.command()(command)
app.add_typer(lecture, name="lecture")
