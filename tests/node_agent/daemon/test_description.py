"""The OpenAPI description says what is answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from agents import Board, a_job, in_thread, settings
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from node_agent.daemon.api import Refused


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    with in_thread(settings(tmp_path_factory.mktemp("board") / "data")) as found:
        yield found


@pytest.fixture(scope="module")
def operations(board: Board) -> dict[tuple[str, str], dict[str, Any]]:
    """By method and path."""
    paths = board.get("/v1/openapi.json")["paths"]
    return {(method.upper(), path): one for path, methods in paths.items() for method, one in methods.items()}


def test_all_refusals_have_one_body(board: Board, operations: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert len(operations) == 17
    for operation in operations.values():
        for code, answer in operation["responses"].items():
            if int(code) >= 400:
                assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Refused")
    assert "HTTPValidationError" not in json.dumps(board.get("/v1/openapi.json"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
CLAIM = st.fixed_dictionaries({"run": st.text(max_size=5) | st.just("r"), "lease_s": JSON | st.just(5)})
SHA256 = st.just("0" * 64) | st.text(max_size=3)
FILE = st.fixed_dictionaries({"name": st.text(max_size=5), "bytes": JSON, "sha256": SHA256})
FULL_CLAIM = st.builds(lambda claim, file: {**claim, "files": [file]}, CLAIM, FILE)
TASK = st.fixed_dictionaries({"kind": JSON | st.just("run") | st.just("bench"), "job": JSON})


@st.composite
def changed_job(draw: st.DrawFn) -> dict[str, Any]:
    job = a_job("shard.npy")
    inside = draw(st.sampled_from([job, job["workload"], job["workload"]["scene"]]))
    inside[draw(st.sampled_from(sorted(inside)) | st.text(max_size=5))] = draw(JSON)
    return {"kind": "run", "job": job}


BODY = st.binary(max_size=30) | (JSON | CLAIM | FULL_CLAIM | TASK | changed_job()).map(
    lambda one: json.dumps(one).encode()
)


@given(data=st.data())
@effort(max_examples=120)
def test_whatever_is_asked_the_answer_is_one_described(
    board: Board, operations: dict[tuple[str, str], dict[str, Any]], data: st.DataObject
) -> None:
    """Of a job that is held, or none; the streams of one that goes on would not end."""
    (method, path), operation = data.draw(st.sampled_from(sorted(operations.items(), key=lambda item: item[0])))
    held = [job["id"] for job in board.get("/v1/jobs") if job["state"] != "running" and "events" not in path]
    job = data.draw(st.sampled_from([*held, "0" * 32]) | st.text(min_size=1, max_size=5))
    name = data.draw(st.just("file") | st.text(min_size=1, max_size=5))
    url = path.replace("{id}", quote(job, safe="")).replace("{name}", quote(name, safe=""))
    query = data.draw(st.dictionaries(st.sampled_from(["offset", "after", "x"]), st.integers() | st.text(max_size=5)))
    kind = data.draw(st.sampled_from(["application/json", "text/plain", "application/octet-stream", "a/b; c=\xff", ""]))
    body = data.draw(BODY) if method in ("POST", "PUT") else None
    headers = {"content-type": kind.encode("latin-1")} if kind else {}
    answer = board.http.request(method, url, params=query, content=body, headers=headers)
    if str(answer.status_code) not in operation["responses"]:
        # A name with a slash in it, or two dots, makes another path.
        assert answer.status_code in (404, 405)
        assert not job.isalnum() or not name.isalnum()
    if answer.status_code >= 400:
        Refused.model_validate_json(answer.content)
    elif answer.status_code != 204:
        described = operation["responses"][str(answer.status_code)]["content"]
        assert answer.headers["content-type"].split(";")[0] in described
