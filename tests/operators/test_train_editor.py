"""An editor for edits: trained where the method needs one and none is given."""

from __future__ import annotations

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from lfm_tasks.operators import ImportTrainingFactsOperator, TrainEditorOperator

GIVEN = "sha256:" + "a" * 64


@pytest.mark.parametrize(("method", "way"), [("mend", "mend_editor"), ("malmen", "malmen_editor"), ("serac_trained", "serac_editor")])
def test_the_editor_is_the_one_that_the_method_needs(method, way):
    context = {"params": {"edit_method": method, "editor": None}}
    assert TrainEditorOperator(task_id="editor", config={"steps": 3}).fixed(context) == {"steps": 3, "method": way}


@pytest.mark.parametrize("operator", [TrainEditorOperator, ImportTrainingFactsOperator])
@pytest.mark.parametrize(
    ("method", "editor", "says"),
    [("ft_m", None, "ft_m needs no editor"), ("memit", None, "memit needs no editor"), ("mend", GIVEN, f"The editor {GIVEN} was given")],
)
def test_none_is_trained_where_none_is_needed_or_one_is_given(operator, method, editor, says):
    with pytest.raises(AirflowSkipException, match=says):
        operator(task_id="task").job({"params": {"edit_method": method, "editor": editor}})
