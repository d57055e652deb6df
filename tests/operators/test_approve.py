"""The question that a person reads, and what becomes of the answer."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowSkipException
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from lfm_tasks.config import parse_config
from lfm_tasks.markdown import escape
from lfm_tasks.operators.approve import AskOperator, answer_of
from lfm_tasks.operators.markdown import decision_page
from lfm_tasks.promotion.config import ApproveConfig
from lfm_tasks.settings import settings

ROW = {"metric": "choice/accuracy", "role": "primary", "champion": 0.9, "challenger": 0.95, "difference": 0.05, "low": 0.01}
ROW |= {"high": 0.09, "margin": None, "verdict": "uncertain"}
SUMMARY = {"outcome": "ask", "reasons": ["It rose from 90 % to 95 %."], "table": [ROW]}
GATE = {"summary": SUMMARY, "outputs": {"decision": "sha256:" + "d" * 64}, "run_url": "http://127.0.0.1:5000/#/experiments/1/runs/2"}


def rendered(text: str) -> str:
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(text)


def event(chosen="Approve", user="ann", reason="", timedout=False):
    who = None if timedout else {"id": user, "name": user}
    answered = datetime(2026, 11, 24, 12, tzinfo=UTC)
    return {"chosen_options": [chosen], "params_input": {"reason": reason}, "responded_at": answered, "responded_by_user": who} | {
        "timedout": timedout
    }


def context(user="bob", approval="when_asked"):
    ti = SimpleNamespace(map_index=-1, xcom_pull=lambda **_: "2026-11-24T11:00:00+00:00", xcom_push=lambda **_: None)
    params = {"promote_approval": approval, "promote_model_name": "bbc", "promote_alias": "champion"}
    return {"ti": ti, "params": params, "dag_run": SimpleNamespace(triggering_user_name=user)}


def test_the_page_shows_the_gates_table_and_links_to_the_comparison():
    page = rendered(decision_page(SUMMARY, GATE["outputs"]["decision"], GATE["run_url"]))
    assert "<th>challenger</th>" in page.replace(' style="text-align:right"', "")
    assert ">0.95</td>" in page and "choice/accuracy" in page and "uncertain" in page
    assert 'href="http://127.0.0.1:5000/#/experiments/1/runs/2"' in page


def test_nothing_in_it_is_markup():
    evil = "<script>alert(1)</script> | [x](javascript:alert(1)) **b** `c` <img src=x onerror=1>"
    page = rendered(decision_page({**SUMMARY, "reasons": [evil], "table": [{**ROW, "metric": evil, "verdict": evil}]}, "d", "javascript:1"))
    assert not any(tag in page for tag in ("<script", "<img", "<a ", "<em>", "onerror=1>"))
    assert page.count("<td") == 8


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1))
def test_escaped_text_reads_as_it_was(text):
    import html

    assert html.unescape(rendered("x " + escape(text)).strip().removeprefix("<p>x ").removesuffix("</p>")) == text


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (event(reason="Fine."), {"chosen": "approve", "by": "ann", "reason": "Fine.", "timed_out": False}),
        (event("Reject"), {"chosen": "reject", "by": "ann", "reason": "", "timed_out": False}),
        (event("Reject", timedout=True), {"chosen": "reject", "by": "", "reason": "", "timed_out": True}),
    ],
)
def test_airflows_answer_becomes_ours_and_a_time_out_is_no_persons_no(given, expected):
    answer = answer_of(given, given["timedout"], "bob")
    assert answer == expected | {"answered": "2026-11-24T12:00:00+00:00", "triggered_by": "bob"}
    parse_config(ApproveConfig, answer)


@pytest.mark.parametrize(("approval", "outcome"), [("never", "ask"), ("when_asked", "promote"), ("always", "reject")])
def test_where_nobody_is_needed_nobody_is_asked(approval, outcome):
    ask = AskOperator(task_id="ask", gate={**GATE, "summary": {**SUMMARY, "outcome": outcome}})
    with pytest.raises(AirflowSkipException, match=f"The gate said {outcome}, and approval={approval}: there is no question"):
        ask.execute(context(approval=approval))


def test_a_no_lets_the_tasks_after_it_record_it():
    """The stock operator would skip them here."""
    answer = AskOperator(task_id="ask", gate=GATE).execute_complete(context(), event("Reject"))
    assert answer["chosen"] == "reject" and answer["asked"] == "2026-11-24T11:00:00+00:00"


def test_approving_ones_own_run_asks_again_where_the_setting_forbids_it(monkeypatch):
    ask = AskOperator(task_id="ask", gate=GATE)
    assert ask.execute_complete(context(user="ann"), event())["by"] == "ann"
    monkeypatch.setenv("LFM_ALLOW_SELF_APPROVAL", "false")
    settings.cache_clear()
    with pytest.raises(AirflowException, match="ann started this run and may not approve it .* The question is asked again"):
        ask.execute_complete(context(user="ann"), event())
    assert ask.execute_complete(context(user="ann"), event("Reject"))["chosen"] == "reject"
    assert ask.execute_complete(context(user=None), event())["by"] == "ann", "a schedule is nobody"
    settings.cache_clear()
