"""Where things are: the store, MLflow, the launcher. Read from environment variables ``LFM_*``, never from Params."""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="LFM_", frozen=True, extra="ignore")

    home: Path = Field(Path(".lfm"), description="State of the embedded default.")
    database: Literal["postgres", "sqlite"] = Field("postgres", description="Databases of the embedded stack: one PostgreSQL, or files.")
    store_uri: str = Field("", description="Object store: file:///dir or s3://bucket/prefix. Default: <home>/store.")
    s3_endpoint_url: str | None = Field(None, description="Endpoint of an S3-compatible server; unset means AWS.")
    s3_region: str = Field("us-east-1", description="Region that requests are signed for.")
    mlflow_uri: str = Field("", description="MLflow tracking server. Default: a SQLite file below <home>.")
    mlflow_timeout: float = Field(10.0, gt=0, description="Seconds that one request to MLflow may take.")
    mlflow_retries: int = Field(2, ge=0, description="How often a request to MLflow is repeated.")
    ledger_uri: SecretStr = Field(SecretStr(""), description="SQLAlchemy URL of the ledger. Default: a SQLite file in <home>.")
    project: str = Field("lfm", description="MLflow experiment that runs go to.")
    allowed_prefixes: str = Field("", description="Comma-separated file:// and s3:// prefixes that references may read.")
    teacher_endpoints: str = Field("", description="Comma-separated URL prefixes of the teachers (APIs) that steps may ask.")
    hf_cache: Path | None = Field(None, description="Hugging Face hub cache for hf:// references.")
    hf_offline: bool = Field(True, description="Resolve hf:// references from the local cache only.")
    store_connection: str = Field("", description="Airflow connection that holds the key pair of the object store.")
    mlflow_connection: str = Field("", description="Airflow connection that holds MLflow's address and login.")
    ledger_connection: str = Field("", description="Airflow connection that holds the ledger's database.")
    interpreter: str = Field(sys.executable, description="Python that runs the steps.")
    launcher: str = Field("python", description="How a step is started: python, torchrun or accelerate.")
    launcher_args: str = Field("", description="Arguments of the launcher, split as a shell splits words.")
    price_cpu_hour: float = Field(0.0, ge=0, description="Price of a CPU hour; 0 means that it costs nothing.")
    price_device_hour: float = Field(0.0, ge=0, description="Price of an hour of one accelerator.")
    price_gib: float = Field(0.0, ge=0, description="Price of a GiB that is read from or written to the store.")
    currency: str = Field("", max_length=8, description="Currency of the prices, e.g. EUR.")
    threads: int = Field(0, ge=0, description="CPU threads of a step; 0 leaves the choice to torch.")
    allow_self_approval: bool = Field(True, description="Whether who started a run may approve its promotion.")
    approval_hours: float = Field(72.0, gt=0, description="Hours that a question waits for its answer; then it has timed out.")
    notify_email: str = Field("", description="Comma-separated addresses that are told of failures and of open questions; empty: nobody.")
    notify_connection: str = Field("smtp_default", description="Airflow connection of the mail server.")
    retrain_schedule: str = Field("0 3 * * 1", description="Cron expression of lfm_retrain, in UTC.")
    retrain_params: dict[str, Any] = Field({}, description="JSON object: the Params of lfm_retrain that differ from the form's defaults.")
    retrain_hours: float = Field(12.0, gt=0, description="Hours from its queueing in which a retraining run should have ended.")

    @property
    def store(self) -> str:
        return self.store_uri or f"file://{(self.home / 'store').resolve()}"

    @property
    def tracking_uri(self) -> str:
        return self.mlflow_uri or f"sqlite:///{(self.home / 'mlflow' / 'mlflow.db').resolve()}"

    @property
    def ledger(self) -> str:
        return self.ledger_uri.get_secret_value() or f"sqlite:///{(self.home / 'ledger.db').resolve()}"

    @property
    def prefixes(self) -> tuple[str, ...]:
        return tuple(prefix.strip() for prefix in self.allowed_prefixes.split(",") if prefix.strip())

    @property
    def teachers(self) -> tuple[str, ...]:
        return tuple(prefix.strip() for prefix in self.teacher_endpoints.split(",") if prefix.strip())


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process. Tests that change the environment call ``settings.cache_clear()``."""
    return Settings()
