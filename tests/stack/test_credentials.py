from __future__ import annotations

import json
import stat

from cryptography.fernet import Fernet

from lfm_tasks.stack import credentials
from lfm_tasks.stack.ports import free_ports


def test_password_is_made_once_and_only_its_owner_reads_it(tmp_path):
    first = credentials.password(tmp_path)
    assert credentials.password(tmp_path) == first
    assert len(first) >= 20
    assert stat.S_IMODE(credentials.password_file(tmp_path).stat().st_mode) == 0o600
    assert json.loads(credentials.password_file(tmp_path).read_text()) == {credentials.USER: first}


def test_a_password_file_that_became_readable_is_closed_again(tmp_path):
    credentials.password(tmp_path)
    credentials.password_file(tmp_path).chmod(0o644)
    credentials.password(tmp_path)
    assert stat.S_IMODE(credentials.password_file(tmp_path).stat().st_mode) == 0o600


def test_keys_are_kept_fit_their_use_and_differ_between_homes(tmp_path):
    keys = credentials.keys(tmp_path / "a")
    assert credentials.keys(tmp_path / "a") == keys
    assert not set(keys.values()) & set(credentials.keys(tmp_path / "b").values())
    assert Fernet(keys["fernet"]).decrypt(Fernet(keys["fernet"]).encrypt(b"text")) == b"text"
    assert len(keys["jwt"]) >= 64
    assert stat.S_IMODE((tmp_path / "a" / "airflow" / "keys.json").stat().st_mode) == 0o600


def test_free_ports_differ_and_can_be_bound():
    import socket

    ports = free_ports(20)
    assert len(set(ports)) == 20
    with socket.socket() as one:
        one.bind(("127.0.0.1", ports[0]))
