"""What records cost: seconds, bytes, and, where prices are set, money. Pure: records in, sums out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lfm_tasks.settings import Settings

Record = Mapping[str, Any]
SECONDS = ("wall_seconds", "cpu_seconds", "device_seconds")
BYTES = ("bytes_read", "bytes_written")
PEAKS = ("peak_rss_bytes", "peak_device_bytes")
HOUR, GIB = 3600, 2**30


@dataclass(frozen=True)
class Prices:
    """Money per CPU hour, per device hour and per GiB that the store moves. All zero: money is not spoken of."""

    cpu_hour: float = 0.0
    device_hour: float = 0.0
    gib: float = 0.0
    currency: str = ""

    @classmethod
    def of(cls, settings: Settings) -> Prices:
        return cls(settings.price_cpu_hour, settings.price_device_hour, settings.price_gib, settings.currency)

    def money(self, used: Mapping[str, float]) -> float | None:
        """The price of the seconds and bytes in ``used``; None where no price is set."""
        if not (self.cpu_hour or self.device_hour or self.gib):
            return None
        time = used.get("cpu_seconds", 0) * self.cpu_hour / HOUR + used.get("device_seconds", 0) * self.device_hour / HOUR
        return time + sum(used.get(name, 0) for name in BYTES) * self.gib / GIB


FREE = Prices()


def used(record: Record) -> dict[str, float]:
    """What the attempt used. Records of format 1 have no device seconds and no bytes: they count as none."""
    return {name: record.get(name) or 0 for name in (*SECONDS, *BYTES, *PEAKS)}


def seconds(record: Record) -> dict[str, float]:
    """What an equal job saves that finds this record in the cache."""
    return {name: record.get(name) or 0 for name in SECONDS}


def saved(record: Record) -> dict[str, float]:
    """What the attempt did not use because it was a cache hit."""
    found = record.get("saved") or {}
    return {name: found.get(name) or 0 for name in SECONDS}


def metrics(record: Record, prices: Prices) -> dict[str, float]:
    """The record's cost as MLflow shows it: ``cost/…``."""
    found = {f"cost/{name}": value for name, value in used(record).items() if record.get(name) is not None}
    if record["cache"]["hit"] and "saved" in record:
        found |= {f"cost/saved_{name}": value for name, value in saved(record).items()}
    money = prices.money(used(record))
    return found if money is None else found | {"cost/money": money}


def total(records: Iterable[Record], prices: Prices) -> dict[str, Any]:
    """Sums over ``records``, each once: what was used, what cache hits saved, the highest peaks, and money where prices are set.

    ``{"records", "hits", seconds and bytes, "saved": {seconds}, "money", "saved_money", "currency"}``.
    """
    found = list(records)
    summed: dict[str, Any] = {name: sum(used(record)[name] for record in found) for name in (*SECONDS, *BYTES)}
    summed |= {name: max((used(record)[name] for record in found), default=0) for name in PEAKS}
    spared = {name: sum(saved(record)[name] for record in found) for name in SECONDS}
    money = {"money": prices.money(summed), "saved_money": prices.money(spared), "currency": prices.currency or None}
    return {"records": len(found), "hits": sum(record["cache"]["hit"] for record in found), **summed, "saved": spared, **money}
