"""Generate ``docker/secrets/*.env`` once, readable by their owner only: every service is given what it needs and no more.

python3 docker/make_secrets.py
"""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path

TARGET = Path(__file__).parent / "secrets"


def environments() -> dict[str, dict[str, str]]:
    """Variables by file name."""
    database, broker, s3_user, s3_key = (secrets.token_hex(24) for _ in range(4))
    url = f"postgresql+psycopg2://lfm:{database}@postgres"
    keys = {"AWS_ACCESS_KEY_ID": s3_user, "AWS_SECRET_ACCESS_KEY": s3_key}
    return {
        "postgres": {"POSTGRES_USER": "lfm", "POSTGRES_PASSWORD": database, "POSTGRES_DB": "airflow"},
        "redis": {"REDIS_PASSWORD": broker},
        "s3": {"ROOT_ACCESS_KEY": s3_user, "ROOT_SECRET_KEY": s3_key},
        "mlflow": {"MLFLOW_BACKEND_STORE_URI": f"{url}/mlflow", **keys},
        "init": {"AIRFLOW_ADMIN_PASSWORD": secrets.token_hex(12)},
        "airflow": {
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"{url}/airflow",
            "AIRFLOW__CELERY__BROKER_URL": f"redis://:{broker}@redis:6379/0",
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql://lfm:{database}@postgres/airflow",
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(64),
            "LFM_LEDGER_URI": f"{url}/lfm",
            **keys,
        },
    }


def main() -> None:
    TARGET.mkdir(mode=0o700, exist_ok=True)
    if any(TARGET.glob("*.env")):
        raise SystemExit(f"{TARGET} already holds secrets. The databases were made with them; remove both or neither.")
    for name, variables in environments().items():
        descriptor = os.open(TARGET / f"{name}.env", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.writelines(f"{key}={value}\n" for key, value in variables.items())
    print(f"Wrote {TARGET}. The administrator's password is AIRFLOW_ADMIN_PASSWORD in init.env.")


if __name__ == "__main__":
    main()
