"""Many questions to one API: some at a time, at its pace, within a budget, each answer kept as soon as it is there."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any

from lfm_tasks.config import canonical_json
from lfm_tasks.distillation.black_box.budget import Budget, Meter
from lfm_tasks.distillation.black_box.config import AskTeacherConfig, BlackBoxConfig
from lfm_tasks.distillation.black_box.endpoint import Endpoint, Passing, Refused
from lfm_tasks.distillation.black_box.pacing import TokenBucket, backoff
from lfm_tasks.distillation.black_box.reply import Place, Reply
from lfm_tasks.errors import AttemptKilled, TeacherUnavailable
from lfm_tasks.seeds import derive_seed
from lfm_tasks.step import StepContext

POLL_SECONDS = 0.2
FRAME_TOKENS = 32
"""What a chat's frame may add to the tokens of its texts."""


@dataclass(frozen=True)
class Request:
    """``key`` is the hash of all that the answer depends on; ``most`` the tokens that it can cost: one a byte of what is sent."""

    key: str
    body: dict[str, Any]
    most: int


def make_request(asked: str, sample: int, config: AskTeacherConfig, options: BlackBoxConfig) -> Request:
    parameters = dict(options.parameters)
    if "seed" in parameters:
        parameters["seed"] = int(parameters["seed"]) + sample
    body = {"model": options.model, "temperature": options.temperature, options.limit_name: config.max_new_tokens} | parameters
    if config.stop:
        body["stop"] = config.stop
    if options.api == "chat":
        system = [{"role": "system", "content": config.system_prompt}] if config.system_prompt else []
        body["messages"] = [*system, {"role": "user", "content": asked}]
        body |= {"logprobs": True, "top_logprobs": options.top_logprobs} if options.top_logprobs else {}
    else:
        body["prompt"] = asked
        body |= {"logprobs": options.top_logprobs} if options.top_logprobs else {}
    named = {"endpoint": options.endpoint, "api": options.api, "revision": options.revision, "sample": sample, "body": body}
    key = hashlib.sha256(canonical_json(named)).hexdigest()
    return Request(key, body, len((asked + config.system_prompt).encode()) + FRAME_TOKENS + config.max_new_tokens)


@dataclass
class Asking:
    """One pass over the requests of a job. ``meter`` and ``spent`` (the limit that ended it, or nothing) are its account."""

    options: BlackBoxConfig
    seed: int
    context: StepContext
    meter: Meter = field(default_factory=Meter)
    spent: str = ""
    last_failure: str = ""

    def __post_init__(self) -> None:
        self.endpoint = Endpoint(self.options)
        self.budget = Budget(self.options.max_requests, self.options.max_tokens)
        self.bucket = TokenBucket(self.options.requests_per_minute / 60, self.options.burst, time.monotonic)
        self._stopping = threading.Event()
        self._replies: dict[str, Reply] = {}
        self._open: set[Future[tuple[str, Reply | None]]] = set()

    def ask(self, requests: Mapping[str, Request]) -> dict[str, Reply]:
        """Replies by key; those without an answer, and those that the budget had no room for, are not among them.

        Raises :class:`TeacherUnavailable` as soon as too many stay without an answer, :class:`ConfigError` where the API lets
        nobody in, and :class:`AttemptKilled` when a stop was asked for. What was answered is kept in each case.
        """
        self._total = len(requests)
        with ThreadPoolExecutor(self.options.concurrency, thread_name_prefix="ask") as pool:
            try:
                self._submit(requests.values(), pool)
                while self._open:
                    self._collect()
            except BaseException:
                self._stopping.set()
                pool.shutdown(cancel_futures=True)
                raise
        return {key: self._replies[key] for key in requests if key in self._replies}

    def _submit(self, requests: Iterable[Request], pool: ThreadPoolExecutor) -> None:
        for request in requests:
            kept = read_answer(self.context.answers.get(request.key))
            if not self._admitted(kept.requests if kept else 1, self._cost(kept, request) if kept else request.most):
                self.spent = self._limits
                return
            if kept:
                self.budget.settle(self._cost(kept, request), self._cost(kept, request))
                self._replies[request.key] = kept
                self.meter.count("kept")
                continue
            self._open.add(pool.submit(self._answer, request))
            while len(self._open) >= self.options.concurrency:
                self._collect()

    @property
    def _limits(self) -> str:
        return f"max_requests={self.options.max_requests}, max_tokens={self.options.max_tokens}"

    def _admitted(self, requests: int, most: int) -> bool:
        """Waits for open questions, which may cost less than was set aside. So what is admitted does not depend on their number."""
        while not self.budget.admit(requests, most):
            if not self._open:
                return False
            self._collect()
        return True

    def _collect(self) -> None:
        done, self._open = wait(self._open, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        for future in done:
            key, reply = future.result()
            if reply is not None:
                self._replies[key] = reply
            self._stop_if_hopeless()
            count = len(self._replies) + self.meter["unanswered"]
            self.context.report(count, self._total, {"requests": self.meter["requests"], "tokens": self.budget.tokens})
        if self.context.stop_requested():
            raise AttemptKilled(f"Stopped on request. {len(self._replies)} answers are kept; the same job goes on from there.")

    def _stop_if_hopeless(self) -> None:
        lost = self.meter["unanswered"]
        if lost > self.options.max_failed * self._total:
            raise TeacherUnavailable(
                f"{self.endpoint.url} left {lost} of {self._total} questions without an answer; max_failed is {self.options.max_failed:g}. "
                f"The last: {self.last_failure}. {len(self._replies)} answers are kept; the same job goes on from there."
            )

    def _answer(self, request: Request) -> tuple[str, Reply | None]:
        """In a thread of the pool: ask until there is an answer or no use in going on."""
        random = Random(derive_seed(self.seed, "backoff", request.key))
        failures = 0
        while True:
            self.bucket.turn(self._sleep)
            self.meter.count("requests")
            try:
                reply = replace(self.endpoint.ask(request.body), requests=failures + 1)
            except Passing as failure:
                failures += 1
                self.meter.count(failure.kind)
                if why := self._no_use(failure, failures):
                    return self._unanswered(request, f"{failure} ({why})")
                if not self.budget.repeat():
                    self.spent = self._limits
                    self.budget.settle(request.most, 0)
                    return request.key, None
                self.bucket.hold(failure.after or 0)
                wait_for = backoff(failures, self.options.first_wait, self.options.longest_wait, random)
                self._sleep(max(wait_for, failure.after or 0))
                continue
            except Refused as refusal:
                self.meter.count("refused")
                return self._unanswered(request, str(refusal))
            self.context.answers.put(request.key, asdict(reply) | {"request": request.body})
            self.budget.settle(request.most, self._cost(reply, request))
            self.meter.count("answered")
            return request.key, reply

    def _no_use(self, failure: Passing, failures: int) -> str:
        if failures > self.options.retries:
            return f"asked {failures} times"
        if (failure.after or 0) > self.options.longest_wait:
            return f"asked to wait {failure.after:g} s, longest_wait is {self.options.longest_wait:g} s"
        return ""

    def _unanswered(self, request: Request, why: str) -> tuple[str, None]:
        self.budget.settle(request.most, 0)
        self.meter.count("unanswered")
        self.last_failure = why
        return request.key, None

    def _cost(self, reply: Reply, request: Request) -> int:
        """Tokens, the worst case where the API does not say."""
        return reply.tokens or request.most

    def _sleep(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise AttemptKilled("Stopped while waiting.")


def read_answer(kept: Mapping[str, Any] | None) -> Reply | None:
    if kept is None:
        return None
    values = {name: value for name, value in kept.items() if name != "request"}
    places = tuple(Place(one["token"], one["logprob"], tuple((t, v) for t, v in one["top"])) for one in values.pop("places"))
    return Reply(**values, places=places)
