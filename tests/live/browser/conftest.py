"""A browser (Debian's Chromium, driven by Playwright) that is logged in to the live stack."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from lfm_tasks.stack import credentials

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60


def missing() -> str | None:
    """What is needed for these tests and is not here, with the way to get it."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "Playwright is not installed: pip install playwright"
    return None if program() else "There is no Chromium here: apt-get install chromium"


def program() -> str | None:
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


@pytest.fixture(scope="session")
def interpreter(warm):
    """What is looked at here is what an operator sees of steps."""
    return warm


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    if reason := missing():
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program(), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Any, live: Any) -> Iterator[Any]:
    """A page after the login. The test fails when a script of ours met an error, broke the policy, or opened a dialog."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, color_scheme="light")
    context.set_default_timeout(SECONDS * 1000)
    opened, problems = context.new_page(), []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda message: problems.append(message.text) if "Content Security Policy" in message.text else None)
    opened.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    opened.goto(f"{live.stack.addresses.airflow}/auth/login")
    opened.fill("input[name=username]", credentials.USER)
    opened.fill("input[name=password]", credentials.password(live.stack.home))
    opened.click("button[type=submit]")
    opened.wait_for_url(lambda url: "/auth/login" not in url)
    yield opened
    context.close()
    assert problems == []
