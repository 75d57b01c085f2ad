"""``python -m headwise``: the command line, where its script is not on the path."""

from headwise.cli import app

if __name__ == "__main__":
    app(prog_name="headwise")
