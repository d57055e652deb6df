"""The operator's answer in the browser: Required Actions, the gate's table, and what the history of the model says afterwards."""

from __future__ import annotations

import time

import pytest

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture
def question(live):
    """A run of lfm_adapt that waits for an answer; its run id and the registered name."""
    name = "asked-in-the-browser"
    run_id = live.trigger(promote_approval="always", promote_model_name=name)
    deadline = time.monotonic() + 240
    while live.states(run_id).get("ask") != "awaiting_input" or not live.left("lfm_adapt", run_id, "ask"):
        assert time.monotonic() < deadline, live.story(run_id, "lfm_adapt")
        time.sleep(0.5)
    return run_id, name


def test_a_question_is_answered_in_required_actions_and_the_champion_moves(page, live, question):
    run_id, name = question
    page.goto(f"{live.stack.addresses.airflow}/required_actions")
    page.get_by_role("row").filter(has_text=run_id).get_by_role("link").first.click()
    page.get_by_role("cell", name="choice/accuracy").first.wait_for()
    page.wait_for_timeout(2000)  # Airflow draws the question again while its task is read
    with page.expect_response(lambda answer: answer.request.method == "PATCH" and answer.url.endswith("/hitlDetails")) as answered:
        page.get_by_role("button", name="Approve").click()
    assert answered.value.ok
    live.succeeds(run_id)
    assert live.client.get_model_version_by_alias(name, "champion").version == "1"

    page.goto(f"{live.stack.addresses.airflow}/lfm/?view=timeline&name={name}")
    event = page.locator("ol.timeline > li.promotion")
    event.locator("p.answer").get_by_text("Approved by admin").wait_for()
    event.get_by_role("button", name=f"lfm_adapt · {run_id}").click()
    page.locator("#graph[data-placed]").wait_for()
