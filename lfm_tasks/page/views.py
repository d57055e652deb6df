"""What a reader is shown of the index: the parts that come from DAGs which the reader may not read are veiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal
from urllib.parse import quote

from lfm_tasks.errors import ReferenceRefused
from lfm_tasks.page.references import find
from lfm_tasks.page.sources import Mlflow
from lfm_tasks.tracking.index import LineageIndex

MayRead = Callable[[str | None], bool]
"""By DAG id; None asks about what no DAG has made."""
Direction = Literal["both", "ancestors", "descendants"]
VEILED = ("id", "short", "type", "kind")


class View:
    """The index as one reader sees it."""

    def __init__(self, index: LineageIndex, may_read: MayRead) -> None:
        self.index, self._may_read = index, may_read

    def page(self, roots: list[str], direction: Direction, limit: int) -> dict[str, Any]:
        found = self.index.neighbourhood(roots, direction, limit)
        return found | {"nodes": [self.brief(node) for node in found["nodes"]]}

    def of_run(self, dag_id: str, run_id: str, task_id: str | None, map_index: int | None) -> list[str]:
        """Records of a DAG run or a task, a mapped one by its index. Raises :class:`ReferenceRefused` where there is none."""
        what = f"task {task_id} of run {run_id}" if task_id else f"run {run_id}"
        records = self.index.graph.records
        found = self.index.of_run(dag_id, run_id, task_id) if self._may_read(dag_id) else []
        found = [one for one in found if map_index is None or records[one]["airflow"]["map_index"] == map_index]
        if not found:
            raise ReferenceRefused(
                f"There is no record of {what} of DAG {dag_id} yet: a step leaves one when it ends well. "
                "Wait for the first step, or look at the task's log."
            )
        return found

    def find(self, text: str) -> str:
        return find(self.index, text)

    def search(self, text: str, limit: int) -> list[dict[str, Any]]:
        found = (node for node in self.index.search(text, 10 * limit) if self._is_shown(node["id"]))
        return [self.brief(node) for node, _ in zip(found, range(limit), strict=False)]

    def node(self, address: str, mlflow: Mlflow) -> dict[str, Any]:
        found = self.index.node(address)
        if not self._is_shown(found["id"]):
            return self._veil(found)
        if found["type"] == "record":
            sides = {side: [self._entry(entry) for entry in found[side]] for side in ("inputs", "outputs")}
            return found | sides | {"links": _links(found["record"], mlflow)}
        maker = found["maker"] and self.brief(found["maker"])
        around = {name: [self.brief(one) for one in found[name]] for name in ("measurements", "used_by")}
        return found | around | {"maker": maker, "links": {}}

    def brief(self, node: Mapping[str, Any]) -> dict[str, Any]:
        """What the graph and the lists show of a node; of a step that decides, also what it said."""
        if not self._is_shown(node["id"]):
            return self._veil(node)
        return dict(node) | ({"said": _said(self.index.graph.records[node["id"]])} if node["type"] == "record" else {})

    def briefly(self, address: str) -> dict[str, Any]:
        return self.page([address], "ancestors", 1)["nodes"][0]

    def may_read_move(self, move: Mapping[str, Any]) -> bool:
        return self._may_read(move["who"].get("airflow.dag_id"))

    def may_read_record(self, address: str) -> bool:
        return self._may_read((self.index.graph.records[address].get("airflow") or {}).get("dag_id"))

    def _entry(self, entry: dict[str, Any]) -> dict[str, Any]:
        """An input or output of a record that is shown: its name stays, what is behind it may be veiled."""
        return entry if self._is_shown(entry["id"]) else self._veil(entry) | {"name": entry["name"]}

    def _is_shown(self, address: str) -> bool:
        """An artifact is shown with any record that made it, and one that no record made, with any record that used it."""
        graph = self.index.graph
        if address in graph.records:
            return self.may_read_record(address)
        makers = [edge.source for edge in graph.into.get(address, ())] or [edge.target for edge in graph.out_of.get(address, ())]
        return any(self.may_read_record(one) for one in makers) if makers else self._may_read(None)

    @staticmethod
    def _veil(node: Mapping[str, Any]) -> dict[str, Any]:
        return {name: node.get(name) for name in VEILED} | {"restricted": True}


def _said(record: Mapping[str, Any]) -> str | None:
    """What a gate, an answer or a promotion came to, in a few words."""
    summary = record["summary"]
    if summary.get("moved"):
        return f"{summary['model_name']} version {summary['version']}"
    return "nothing moved" if "moved" in summary else summary.get("outcome")


def _links(record: Mapping[str, Any], mlflow: Mlflow) -> dict[str, str]:
    """Addresses of the MLflow run and of the Airflow task; the latter relative to the page, so that it survives a proxy."""
    found = {"mlflow": mlflow.run_url(record["project"], record["mlflow"].get("run_id"))}
    if task := record.get("airflow"):
        mapped = f"/mapped/{task['map_index']}" if task["map_index"] >= 0 else ""
        dag, run, name = (quote(task[part], safe="") for part in ("dag_id", "run_id", "task_id"))
        found["airflow"] = f"../dags/{dag}/runs/{run}/tasks/{name}{mapped}"
    return {name: address for name, address in found.items() if address}
