"""How an operator reads what an untrusted person typed into a form."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowSkipException

from lfm_tasks.errors import ConfigError
from lfm_tasks.operators import CutStudentOperator, EvaluateOperator, TuneOperator
from lfm_tasks.operators.base import check_params, fill
from lfm_tasks.steps import STEPS


def test_a_param_fills_its_place_and_is_not_interpreted_further():
    params = {"data": "{model} {{ var.value.secret }}", "model": "starter://x"}
    assert fill("{data}", params) == "{model} {{ var.value.secret }}"
    assert fill("models:/{model}@champion", params) == "models:/starter://x@champion"


def test_an_empty_param_leaves_nothing():
    assert fill("{general}", {"general": None}) == ""


def test_a_reference_to_an_undeclared_param_is_refused():
    with pytest.raises(ConfigError, match="Unknown Param 'dat'. Did you mean 'data'"):
        fill("{dat}", {"data": "x"})


def test_unknown_keys_of_a_trigger_are_refused():
    with pytest.raises(ConfigError, match=r"Unknown Param 'evil'.*Allowed: rank"):
        check_params({"rank": 8, "evil": "../../x"}, {"rank": None})


def made(value, **references):
    operator = EvaluateOperator(task_id="evaluate", references=references, inputs={"model": value, "dataset": "sha256:d"})
    return operator._references(STEPS["evaluate"], {}, None)["model"]


def test_of_alternatives_the_first_that_was_handed_on_is_taken():
    assert made(("", "sha256:b", "sha256:c")) == "sha256:b" and made(("sha256:a", "")) == "sha256:a"
    assert made(("", "sha256:b"), model="starter://x") == ["starter://x", "sha256:b"]
    with pytest.raises(AirflowSkipException, match="No model was given for task evaluate"):
        made(("", ""))


def test_alternatives_are_waited_for_and_filled_in_and_survive_serialisation():
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("alternatives") as dag:
        cut, tune = CutStudentOperator(task_id="cut"), TuneOperator(task_id="tune")
        evaluate = EvaluateOperator(task_id="evaluate", inputs={"model": (cut.output["model"], tune.output["model"]), "dataset": "d"})
    assert evaluate.upstream_task_ids == {"cut", "tune"}
    again = DagSerialization.from_dict(DagSerialization.to_dict(dag)).get_task("evaluate")
    assert again.upstream_task_ids == {"cut", "tune"}
    handed_on = {"cut": "", "tune": "sha256:t"}
    ti = SimpleNamespace(dag_id=dag.dag_id, map_index=-1, xcom_pull=lambda task_ids, **_: handed_on[task_ids])
    evaluate.render_template_fields({"ti": ti, "task": evaluate, "expanded_ti_count": None})
    assert evaluate._references(STEPS["evaluate"], {}, None)["model"] == "sha256:t"


@pytest.mark.parametrize(
    ("conditions", "params", "said"),
    [
        ({"when": "way"}, {"way": "a"}, None),
        ({"when": "way"}, {"way": None}, "'way' is off"),
        ({"when": "way=a"}, {"way": "a"}, None),
        ({"when": "way=a"}, {"way": "b"}, "'way' is b"),
        ({"unless": "way"}, {"way": ""}, None),
        ({"unless": "way"}, {"way": "b"}, "The way is b"),
        ({"unless": "way=a"}, {"way": "b"}, None),
        ({"unless": "way=a"}, {"way": "a"}, "The way is a"),
    ],
)
def test_a_task_that_no_param_asks_for_skips_itself_and_hands_on_nothing(conditions, params, said):
    operator, pushed = TuneOperator(task_id="tune", **conditions), {}
    ti = SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))
    context = {"ti": ti, "params": params, "dag": SimpleNamespace(params=params)}
    with pytest.raises(AirflowSkipException, match=said or "No model was given"):
        operator.execute(context)
    assert pushed == dict.fromkeys(STEPS["tune"].outputs, "")


def test_a_condition_on_a_param_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="Unknown Param 'wy'. Did you mean 'way'"):
        TuneOperator(task_id="tune", when="wy=a").job({"params": {"way": "a"}})
