"""The libraries of the page: what NOTICE.json says is what lies there, and nothing else does."""

from __future__ import annotations

import hashlib
import json
import re

from lfm_tasks.page.app import STATIC

VENDOR = STATIC / "vendor"
NOTICE = json.loads((VENDOR / "NOTICE.json").read_text())


def digest(name):
    return hashlib.sha256((VENDOR / name).read_bytes()).hexdigest()


def test_every_file_is_named_with_its_version_and_its_hash():
    named = {"NOTICE.json"}
    for entry in NOTICE:
        assert (digest(entry["file"]), (VENDOR / entry["file"]).stat().st_size) == (entry["sha256"], entry["bytes"])
        assert digest(entry["licence_file"]) == entry["licence_sha256"]
        assert entry["version"] in (VENDOR / entry["file"]).read_text()
        named |= {entry["file"], entry["licence_file"]}
    assert {path.name for path in VENDOR.iterdir()} == named


def test_each_licence_lets_us_ship_it():
    for entry in NOTICE:
        assert entry["licence"] == "MIT"
        assert "without restriction" in (VENDOR / entry["licence_file"]).read_text()


def test_the_page_loads_only_what_is_served_beside_it():
    for path in [*STATIC.glob("*.js"), STATIC / "page.html", STATIC / "page.css"]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"""(src|href|from|import|url)\s*[=(]?\s*["']?(https?:)?//""", text), path
        for target in re.findall(r'from "(\./[^"]+)"|import "(\./[^"]+)"', text):
            assert (STATIC / "".join(target)).is_file(), target
