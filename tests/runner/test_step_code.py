"""The cache key of a step holds the code that its outcome depends on: nothing that it imports lies outside."""

from __future__ import annotations

import grimp
import pytest

from lfm_tasks.catalogue import methods_of
from lfm_tasks.registry import Step
from lfm_tasks.runner.environment import code_digest, code_files
from lfm_tasks.steps import STEPS
from tests.artifacts.media import tree

CONTRACTS = {
    "lfm_tasks": "the package itself, empty",
    "lfm_tasks.config": "how a config is read; its values are in the key",
    "lfm_tasks.importing": "imports without garbage collection",
    "lfm_tasks.errors": "what is said when nothing comes out",
    "lfm_tasks.names": "which names are allowed",
    "lfm_tasks.registry": "how steps and cards are found",
    "lfm_tasks.step": "what a step is given and gives back",
    "lfm_tasks.catalogue": "which methods there are; the code of each is in the key of its step",
    "lfm_tasks.artifacts": "a package without code of its own",
    "lfm_tasks.distillation": "a package without code of its own",
    "lfm_tasks.reuse": "a package without code of its own",
    "lfm_tasks.training": "a package without code of its own",
    "lfm_tasks.artifacts.hashing": "SHA-256, whose values are what they are",
}
"""Light modules that change no output."""


@pytest.fixture(scope="module")
def imports():
    """Who imports whom in ``lfm_tasks``, inside functions too."""
    return grimp.build_graph("lfm_tasks", cache_dir=None, exclude_type_checking_imports=True)


def reached(imports, starts: set[str]) -> dict[str, str]:
    """Every module that is imported from ``starts``, and one that imports it. What contracts import is not followed."""
    found, waiting = dict.fromkeys(starts, ""), list(starts)
    while waiting:
        module = waiting.pop()
        packages = {module.rsplit(".", n)[0] for n in range(1, module.count("."))}
        for imported in (imports.find_modules_directly_imported_by(module) | packages) - found.keys():
            found[imported] = module
            if imported not in CONTRACTS:
                waiting.append(imported)
    return found


def outside(modules: dict[str, str], code: tuple[str, ...]) -> dict[str, str]:
    return {
        module: importer
        for module, importer in modules.items()
        if module not in CONTRACTS and not any(module == package or module.startswith(f"{package}.") for package in code)
    }


def imported_by(step: Step, imports) -> dict[str, str]:
    targets = [step.run, step.config, *(target for card in methods_of(step.name) for target in (card.implementation, card.config))]
    return reached(imports, {target.partition(":")[0] for target in targets})


@pytest.mark.parametrize("step", [step for step in STEPS if step.cached], ids=lambda step: step.name)
def test_everything_that_a_step_imports_is_in_its_cache_key(imports, step):
    modules = imported_by(step, imports)
    assert len(modules) > 5
    assert outside(modules, step.code) == {}, f"Name the packages in the code of step {step.name} (lfm_tasks/steps.py)"


@pytest.mark.parametrize("step", list(STEPS), ids=lambda step: step.name)
def test_a_step_names_no_code_that_it_does_not_use(imports, step):
    """A change elsewhere would throw its cached results away."""
    modules = imported_by(step, imports)
    assert [package for package in step.code if not any(f"{module}.".startswith(f"{package}.") for module in modules)] == []


def test_the_digest_follows_sources_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    tree(tmp_path, {"sample_area/__init__.py": b"", "sample_area/tasks/one.yaml": b"a: 1", "sample_module.py": b"x = 1"})

    def digest() -> str:
        code_files.cache_clear()
        code_digest.cache_clear()
        return code_digest(("sample_area", "sample_module"))

    seen = [digest()]
    tree(tmp_path, {"sample_area/__pycache__/x.pyc": b"", "beside_the_module.py": b""})
    assert digest() == seen[0]
    for change in ({"sample_area/tasks/one.yaml": b"a: 2"}, {"sample_module.py": b"x = 2"}, {"sample_area/new.py": b""}):
        tree(tmp_path, change)
        seen.append(digest())
    assert len(set(seen)) == 4
    with pytest.raises(ModuleNotFoundError, match="Package no_such_area of a step's code is not installed"):
        code_digest(("no_such_area",))
