"""Only endpoints that an administrator allows are asked, and a key goes nowhere else."""

from __future__ import annotations

import pytest

from lfm_tasks.config import parse_config
from lfm_tasks.distillation.black_box.access import address, api_key
from lfm_tasks.distillation.black_box.config import AskTeacherConfig, BlackBoxConfig
from lfm_tasks.errors import ConfigError, ReferenceRefused
from lfm_tasks.settings import settings


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setenv("LFM_TEACHER_ENDPOINTS", "https://api.example.com/v1, http://127.0.0.1:8000")
    settings.cache_clear()
    yield
    settings.cache_clear()


def options(endpoint: str, **more) -> BlackBoxConfig:
    return parse_config(BlackBoxConfig, {"endpoint": endpoint, "model": "m", **more})


@pytest.mark.parametrize("endpoint", ["https://api.example.com/v1", "https://api.example.com/v1/", "http://127.0.0.1:8000/openai/v1"])
def test_what_is_below_an_allowed_prefix_is_asked(allowed, endpoint):
    assert address(options(endpoint)) == f"{endpoint.rstrip('/')}/chat/completions"
    assert address(options(endpoint, api="completions")) == f"{endpoint.rstrip('/')}/completions"


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://api.example.com.evil.org/v1",
        "https://api.example.com/v10",
        "http://api.example.com/v1",
        "http://127.0.0.1:80001/v1",
        "http://169.254.169.254/latest",
        "https://api.example.com/v1/../admin",
        "https://api.example.com/v1/%2e%2e/admin",
        "http://localhost:8000/v1",
    ],
)
def test_nothing_else_is(allowed, endpoint):
    with pytest.raises(ReferenceRefused, match="LFM_TEACHER_ENDPOINTS|holds '..', escapes"):
        address(options(endpoint))


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://user:word@api.example.com/v1",
        "https://api.example.com/v1?x=1",
        "file:///etc/passwd",
        "http://127.0.0.1:8000\\@evil.org",
        "https://a b",
    ],
)
def test_what_is_no_plain_url_is_no_endpoint(endpoint):
    with pytest.raises(ConfigError, match="endpoint"):
        options(endpoint)


def test_by_default_nobody_is_asked(monkeypatch):
    monkeypatch.delenv("LFM_TEACHER_ENDPOINTS", raising=False)
    settings.cache_clear()
    with pytest.raises(ReferenceRefused, match=r"\(none is configured\). An administrator extends LFM_TEACHER_ENDPOINTS"):
        address(options("https://api.example.com/v1"))


def test_a_key_is_in_a_variable_that_is_named_like_one(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", " sesame\n")
    assert api_key(options("https://x.org", key_variable="SOME_API_KEY")) == "sesame"
    assert api_key(options("https://x.org")) == ""
    with pytest.raises(ConfigError, match="key_variable"):
        options("https://x.org", key_variable="AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigError, match="looked for in the environment variable OTHER_API_KEY"):
        api_key(options("https://x.org", key_variable="OTHER_API_KEY"))
    with pytest.raises(ConfigError, match="in the connection 'teacher', through LFM_TEACHER_API_KEY"):
        api_key(options("https://x.org", key_connection="teacher"))
    with pytest.raises(ConfigError, match="exclude one another"):
        options("https://x.org", key_variable="SOME_API_KEY", key_connection="teacher")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"options": {}}, "endpoint: Field required"),
        (
            {"options": {"endpoint": "https://x.org", "model": "m", "parameters": {"stream": True}}},
            "'stream' is set by an option of its own",
        ),
        ({"prompt_template": "{{ secret }}"}, "template code is not run"),
        ({"teacher_template": "always the same"}, "teacher_template names no column"),
        ({"stop": [""]}, "stop holds an empty text"),
        ({"method": "beam", "options": {"num_beams": 2, "keep": 3}}, "keep=3 is more than num_beams=2"),
    ],
)
def test_what_does_not_go_together_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        parse_config(AskTeacherConfig, {"method": "black_box", "options": {"endpoint": "https://x.org", "model": "m"}} | values)
