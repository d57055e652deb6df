"""Fill a DAG's trigger form in, as an operator does."""

from __future__ import annotations


def fill_form(page, sections):
    """Fill the open form in, section by section: Airflow keeps one open at a time. A JSON text goes into the section's editor."""
    dialog = page.get_by_role("dialog")
    for section, values in sections.items():
        heading = dialog.get_by_role("button", name=section, exact=True)
        if heading.get_attribute("aria-expanded") != "true":
            heading.click()
        for name, value in values.items():
            fill_field(page, dialog.locator(f"[name=element_{name}]"), value, dialog)
    return dialog


def fill_field(page, field, value, dialog):
    if value.startswith(("{", "[")):
        dialog.locator(".monaco-editor:visible .view-line").first.click()
        page.keyboard.press("Control+A")
        page.keyboard.insert_text(value)
        page.keyboard.press("Control+Shift+End")  # the brackets that the editor closed by itself
        page.keyboard.press("Delete")
        assert not dialog.get_by_text("SyntaxError").count()
    elif field.get_attribute("type") == "hidden":
        field.locator("xpath=..").get_by_role("combobox").click()
        page.get_by_role("option", name=value, exact=True).click()
    else:
        field.fill(value)
        field.blur()


def trigger(page, live, dag_id, sections):
    """Open the form of ``dag_id``, fill it in, start the run; returns its id."""
    page.goto(f"{live.stack.addresses.airflow}/dags/{dag_id}")
    page.get_by_role("button", name="Trigger").first.click()
    dialog = fill_form(page, sections)
    with page.expect_response(lambda answer: answer.request.method == "POST" and answer.url.endswith("/dagRuns")) as triggered:
        dialog.get_by_role("button", name="Trigger", exact=True).click()
    assert triggered.value.ok, triggered.value.text()
    return triggered.value.json()["dag_run_id"]
