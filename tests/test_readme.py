"""What the README says of methods is what the cards say."""

from __future__ import annotations

from lfm_tasks.catalogue import METHODS
from lfm_tasks.commands.jobs import markdown_rows
from tests.conftest import ROOT


def test_the_table_of_methods_is_the_catalogue():
    table = (ROOT / "README.md").read_text().partition("<!-- methods")[2].partition("<!-- /methods -->")[0]
    assert table.splitlines()[1:] == markdown_rows(list(METHODS)), "run `lfm methods --markdown` and paste"
