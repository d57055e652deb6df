"""Before the servers start: Airflow's schema, its pools, the bucket, the administrator's password. Run again, it changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

POOLS = {"cpu_heavy": ("2", "Work that fills a worker's cores"), "gpu": ("1", "One slot for each GPU")}


def main() -> None:
    subprocess.run(["airflow", "db", "migrate"], check=True)
    for name, (slots, description) in POOLS.items():
        if subprocess.run(["airflow", "pools", "get", name], capture_output=True).returncode:
            subprocess.run(["airflow", "pools", "set", name, slots, description, "--include-deferred"], check=True)
    make_bucket(os.environ["LFM_STORE_URI"].removeprefix("s3://").partition("/")[0])
    write_password(Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]), os.environ["AIRFLOW_ADMIN_PASSWORD"])


def make_bucket(name: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["LFM_S3_ENDPOINT_URL"], region_name=os.environ["LFM_S3_REGION"])
    if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=name)


def write_password(path: Path, password: str) -> None:
    path.touch(mode=0o600)
    path.write_text(json.dumps({"admin": password}))


if __name__ == "__main__":
    main()
