"""What an operator and an auditor do in the browser, against the live stack: form, run, lineage, MLflow, answers, history, comparison."""

from __future__ import annotations

import time
from contextlib import contextmanager

import psutil
import pytest

from tests.live.browser.forms import trigger
from tests.tracking.tracking_records import make_record

pytestmark = [pytest.mark.live, pytest.mark.slow]
SCRIPT = "<script>alert('lineage')</script><img src=x onerror=alert(1)>"


class LineagePage:
    """The page, alone or in Airflow's frame."""

    def __init__(self, page, frame=None):
        self.page, self.frame = page, frame or page

    def placed(self):
        """Wait until the graph is drawn; how many nodes it has."""
        self.frame.locator("#graph[data-placed]").wait_for()
        return int(self.frame.locator("#graph").get_attribute("data-nodes"))

    def click_node(self, **wanted):
        """Click the first node in the drawing whose data are as wanted, where a person would."""
        canvas = self.frame.locator("#graph")
        place = canvas.evaluate(
            """(graph, wanted) => {
                const cy = graph._cyreg.cy;
                const node = cy.nodes().filter((one) => Object.entries(wanted).every(([key, value]) => one.data(key).startsWith(value)))[0];
                cy.zoom(1);
                cy.center(node);
                return node.renderedPosition();
            }""",
            wanted,
        )
        canvas.click(position=place)

    @property
    def panel(self):
        return self.frame.locator("aside")


@pytest.fixture(scope="module")
def adapted(live):
    """A finished run of lfm_adapt."""
    run_id = live.trigger()
    live.succeeds(run_id)
    return run_id


@pytest.fixture
def open_page(page, live):
    def open_(query=""):
        page.goto(f"{live.stack.addresses.airflow}/lfm/{query}")
        return LineagePage(page)

    return open_


def test_a_run_is_triggered_from_its_form_and_followed_to_mlflow(page, live):
    run_id = trigger(
        page,
        live,
        "lfm_adapt",
        {
            "What to work on": {"model": f"file://{live.data}/model", "data": f"file://{live.data}/rows.jsonl", "general": ""},
            "Prepare data: Prompt": {"prepare_prompt_template": "Article: {text}\nTopic:"},
            "Tune: Method": {"tune_method": "Full fine-tuning"},
            "Tune: Optimiser": {"tune_learning_rate": "0.01"},
            "Tune: Length": {"tune_epochs": "6"},
            "Promote: Promotion": {"promote_model_name": "from-the-form", "promote_approval": "Never"},
        },
    )
    live.succeeds(run_id)
    record = live.records(run_id)["tune"]
    assert record["method"] == "full" and record["config"]["epochs"] == 6

    page.goto(f"{live.stack.addresses.airflow}/dags/lfm_adapt/runs/{run_id}")
    page.get_by_role("link", name="Lineage").last.click()
    shown = LineagePage(page, page.frame_locator("iframe"))
    assert shown.placed() >= 10
    shown.click_node(label="tune")
    shown.panel.get_by_text("tune · full").first.wait_for()
    with page.context.expect_page() as opened:
        shown.panel.get_by_role("link", name="MLflow run").click()
    assert opened.value.url.startswith(live.stack.addresses.mlflow)
    assert record["mlflow"]["run_id"] in opened.value.url


def test_the_panel_leads_from_a_model_to_the_step_that_made_it(open_page, live, adapted):
    shown = open_page("?reference=models:/toy-topics@champion")
    shown.placed()
    shown.panel.get_by_text("toy-topics version 1 (champion)").wait_for()
    shown.panel.get_by_role("button", name="tune · full").click()
    shown.panel.get_by_role("heading", name="tune · full").wait_for()
    shown.panel.get_by_text("Config", exact=True).click()
    assert shown.panel.get_by_role("row", name="learning_rate 0.01").is_visible()
    address = shown.panel.get_by_role("link", name="Airflow task").get_attribute("href")
    assert "/dags/lfm_adapt/runs/manual__" in address and address.endswith("/tasks/tune")


def test_what_is_hidden_stays_connected(open_page, adapted):
    shown = open_page("?reference=models:/toy-topics@champion")
    shown.placed()
    shown.frame.get_by_role("button", name="all steps").click()
    shown.frame.get_by_role("button", name="report").click()
    count = "graph => ({nodes: graph._cyreg.cy.nodes().length, alone: graph._cyreg.cy.nodes().filter((one) => one.degree() === 0).length})"
    shown.page.wait_for_function(f"() => ({count})(document.querySelector('#graph')).nodes < 8")
    left = shown.frame.locator("#graph").evaluate(count)
    assert left["nodes"] > 2 and left["alone"] == 0


def test_a_search_finds_a_step_and_opens_it(open_page, adapted):
    shown = open_page()
    shown.page.keyboard.press("/")
    shown.frame.locator("#search").fill("gate lfm_adapt")
    shown.frame.locator("#found").get_by_role("button", name="gate").first.click()
    shown.placed()
    shown.panel.get_by_role("heading", name="gate").wait_for()
    assert shown.panel.get_by_text("promote", exact=True).is_visible()


def test_the_history_of_a_model_says_who_moved_it_and_why(open_page, adapted):
    shown = open_page("?view=timeline&name=toy-topics")
    event = shown.frame.locator("ol.timeline > li.promotion").last
    event.get_by_text("first version").wait_for()
    assert event.get_by_text("by admin").is_visible()
    assert event.get_by_text("an improvement that chance does not explain").is_visible()
    shown.frame.get_by_text("the hash chain in the store holds together").wait_for()
    event.get_by_role("button", name="report").click()
    shown.placed()


def test_two_models_are_compared_down_to_their_layers(open_page, live, adapted):
    base = live.records(adapted)["tune"]["inputs"]["model"]["sha256"]
    shown = open_page(f"?view=compare&a=sha256:{base}&b=models:/toy-topics@champion")
    shown.frame.get_by_text("B is better").first.wait_for()
    layers = shown.frame.locator("table.bars tr")
    assert layers.count() >= 3
    assert layers.filter(has_text="model.layers.0").locator("svg rect").count() == 2


def test_what_a_record_says_is_text(open_page, live, adapted):
    task = {
        "dag_id": "lfm_adapt",
        "run_id": SCRIPT,
        "task_id": SCRIPT,
        "map_index": -1,
        "try_number": 1,
        "url": "javascript:alert(1)",
        "user": SCRIPT,
    }
    given = next(iter(live.records(adapted)["tune"]["inputs"].values()))
    model = type("Artifact", (), {"kind": given["kind"], "sha256": given["sha256"]})()
    record = make_record("tune", {SCRIPT: model}, {}, method=SCRIPT, config={SCRIPT: SCRIPT}, metrics={SCRIPT: 1.0}, airflow=task)
    address = live.store.put_record(record | {"summary": {"outcome": SCRIPT, "reasons": [SCRIPT]}})
    open_page().page.wait_for_timeout(3000)
    shown = open_page(f"?reference={address}")
    shown.placed()
    shown.panel.get_by_text(SCRIPT).first.wait_for()
    assert shown.frame.locator("script:not([src]), img").count() == 0
    hrefs = shown.panel.get_by_role("link").evaluate_all("links => links.map((one) => one.protocol)")
    assert set(hrefs) <= {"http:", "https:"}


def test_it_follows_airflows_theme(page, live, adapted):
    page.goto(f"{live.stack.addresses.airflow}/plugin/lineage")
    inside = page.frame_locator("iframe").locator("html")
    page.frame_locator("iframe").get_by_text("Registered models").wait_for()
    for theme in ("dark", "light"):
        page.evaluate("theme => localStorage.setItem('theme', theme)", theme)
        page.frame_locator("iframe").locator(f"html[data-theme={theme}]").wait_for()
    light = inside.evaluate("root => getComputedStyle(document.body).backgroundColor")
    page.evaluate("localStorage.setItem('theme', 'dark')")
    page.frame_locator("iframe").locator("html[data-theme=dark]").wait_for()
    assert inside.evaluate("root => getComputedStyle(document.body).backgroundColor") != light


def test_without_a_session_the_page_says_so_and_shows_nothing(browser, live, adapted):
    context = browser.new_context()
    opened = context.new_page()
    opened.goto(f"{live.stack.addresses.airflow}/lfm/?reference=models:/toy-topics@champion")
    opened.get_by_text("Your session has ended. Log in to Airflow again").wait_for()
    assert opened.get_by_text("tune").count() == 0
    context.close()


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


def test_mlflow_may_go_while_the_page_is_open(open_page, live, adapted):
    shown = open_page("?reference=models:/toy-topics@champion")
    shown.placed()
    with stopped(live, "mlflow"):
        shown.page.wait_for_timeout(16_000)  # MLflow is asked again after fifteen seconds
        shown.panel.get_by_role("button", name="tune · full").click()
        shown.panel.get_by_role("heading", name="tune · full").wait_for()
        shown.frame.get_by_text("does not answer: links to it may lead nowhere").wait_for()
        shown.page.reload()
        assert shown.placed() >= 10


@contextmanager
def stopped(live, name):
    """Freeze a server of the stack: it accepts connections and answers none."""
    root = next(one.process.pid for one in live.stack.supervisor.running if one.component.name == name)
    tree = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    for process in tree:
        process.suspend()
    try:
        yield
    finally:
        for process in tree:
            process.resume()
