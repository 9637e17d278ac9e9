"""Whatever an endpoint does: every question is answered once, or one sentence says why not."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from evaluation.client.asking import Answer, Question, Sampling
from evaluation.client.endpoint import Endpoint, first_model
from evaluation.client.gather import gather
from evaluation.client.records import Records, opened
from evaluation.client.retry import Patience
from sixfold.errors import SixfoldError
from sixfold.progress import unseen
from tests.evaluation.stub import Reply, Stub, cut, dropped, said, serving, status

FAST = Patience(tries=3, first=0.01, longest=0.2)
SAMPLING = Sampling(max_tokens=64, temperature=0.0, seed=11)
CONDITIONS = {"task": "test"}


def questions(count: int) -> list[Question]:
    return [Question(f"T/{n}", 0, ({"role": "user", "content": f"question {n}"},)) for n in range(count)]


def echo(body: dict) -> Reply:
    return said(body["messages"][-1]["content"])


def asked(stub: Stub, path: Path, count: int = 4, concurrency: int = 2, seconds: float = 5) -> dict:
    endpoint = Endpoint(stub.url, "stub", seconds=seconds)
    with opened(path, CONDITIONS) as records:
        gather(endpoint, questions(count), SAMPLING, records, concurrency, FAST, unseen, "asking")
        return records.answers


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def stalls(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(2)
    handler.close_connection = True


def drips(handler: BaseHTTPRequestHandler) -> None:
    """A byte now and then: no wait for the next one is ever too long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    try:
        for _ in range(40):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass
    handler.close_connection = True


PASSING = {
    "429": status(429, {"error": {"message": "slow down"}}, Retry_After="0.05"),
    "500": status(500, b"<html>oops</html>"),
    "503": status(503),
    "a date to wait for": status(503, b"", Retry_After="Wed, 21 Oct 2015 07:28:00 GMT"),
    "dropped": dropped,
    "cut off": cut,
    "no JSON": status(200, b"{"),
    "a list": status(200, b"[]"),
    "deep JSON": status(200, b"[" * 100_000),
    "no choices": {"choices": []},
    "null choices": {"choices": None},
    "strange choices": {"choices": ["x"]},
    "no message": {"choices": [{"finish_reason": "stop"}]},
    "no reason to end": said("x", None),
    "content that is no text": said([{"type": "text"}]),
    "stalls": stalls,
    "drips": drips,
}


@pytest.mark.parametrize("trouble", PASSING)
def test_what_passes_is_tried_again_and_counted_once(trouble: str, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    with serving(echo, PASSING[trouble]) as stub:
        answers = asked(stub, path, seconds=0.5)
        assert len(stub.requests) == 5
    assert {key: answer.text for key, answer in answers.items()} == {(f"T/{n}", 0): f"question {n}" for n in range(4)}
    assert sorted(answer.tries for answer in answers.values()) == [1, 1, 1, 2]
    assert len(lines(path)) == 5  # the conditions and four answers


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("429", "after 3 tries .* answered with status 429 .slow down.; what was answered is kept"),
        ("500", "after 3 tries .* answered with status 500 "),
        ("dropped", "after 3 tries .* dropped the connection or refused it"),
        ("no JSON", "after 3 tries .* answered with something that is not JSON"),
        ("no choices", "after 3 tries an answer came without choices"),
        ("no reason to end", "after 3 tries an answer does not say why it ended"),
        ("stalls", "after 3 tries .* did not answer within 0.3 s"),
        ("drips", "after 3 tries .* did not finish its answer within 0.3 s"),
    ],
)
def test_what_does_not_pass_is_one_sentence_and_a_rerun_asks_the_rest(
    trouble: str, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "records.jsonl"

    def fails_on_the_third(body: dict) -> Reply:
        return PASSING[trouble] if body["messages"][-1]["content"] == "question 2" else echo(body)

    with serving(fails_on_the_third) as stub, pytest.raises(SixfoldError, match=sentence) as error:
        asked(stub, path, concurrency=1, seconds=0.3)
    assert "\n" not in str(error.value)
    assert [line["task_id"] for line in lines(path)[1:]] == ["T/0", "T/1"]
    with serving(echo) as stub:
        asked(stub, path)
        assert sorted(body["messages"][-1]["content"] for _, body in stub.requests) == ["question 2", "question 3"]
    assert sorted(line["task_id"] for line in lines(path)[1:]) == ["T/0", "T/1", "T/2", "T/3"]


def test_what_cannot_pass_is_not_tried_again(tmp_path: Path) -> None:
    refusal = status(400, {"error": {"message": "the prompt is too long"}})
    with (
        serving(echo, refusal) as stub,
        pytest.raises(SixfoldError, match=r"refuses a request with status 400 .the prompt is too long."),
    ):
        asked(stub, tmp_path / "records.jsonl", concurrency=1)
    assert len(stub.requests) == 1


def test_nobody_there(tmp_path: Path) -> None:
    with serving(echo) as stub:
        pass
    with pytest.raises(SixfoldError, match=r"after 3 tries .* refused"):
        asked(stub, tmp_path / "records.jsonl")
    with pytest.raises(SixfoldError, match="does not say which models it serves"):
        first_model(Endpoint(stub.url, ""))


def test_a_request_says_all_that_an_answer_depends_on(tmp_path: Path) -> None:
    endpoint_fields = {"cache_prompt": False}
    chat = Question("T/0", 2, ({"role": "user", "content": "hello"},))
    raw = Question("T/1", 0, prompt="def f", stop=("\ndef",))
    with serving(lambda body: said("x")) as stub, opened(tmp_path / "records", CONDITIONS) as records:
        endpoint = Endpoint(stub.url, "stub", extra=endpoint_fields)
        gather(endpoint, [chat, raw], SAMPLING, records, 1, FAST, unseen, "asking")
    common = {"model": "stub", "max_tokens": 64, "temperature": 0.0, "cache_prompt": False}
    assert stub.requests == [
        ("/v1/chat/completions", {**common, "messages": [{"role": "user", "content": "hello"}], "seed": 13}),
        ("/v1/completions", {**common, "prompt": "def f", "stop": ["\ndef"], "seed": 11}),
    ]


@pytest.mark.parametrize(
    ("reply", "text", "thinking"),
    [
        (said("plain"), "plain", ""),
        (said("<think>\nhm\n</think>\n\nso"), "so", "hm"),
        (said("hm\n</think>\nso"), "so", "hm"),
        (said("<think>\nhm, for ever", "length"), "", "hm, for ever"),
        (said("so", reasoning_content="hm"), "so", "hm"),
        (said("so", reasoning="hm"), "so", "hm"),
        (said(None, reasoning_content="hm"), "", "hm"),  # type: ignore[arg-type]
    ],
)
def test_thinking_is_told_apart(reply: Reply, text: str, thinking: str, tmp_path: Path) -> None:
    with serving(lambda body: reply) as stub:
        (answer,) = asked(stub, tmp_path / "records", count=1).values()
    assert (answer.text, answer.thinking) == (text, thinking)


def test_requests_run_side_by_side(tmp_path: Path) -> None:
    """Four at a time meet at a barrier that one at a time would never pass."""
    barrier = threading.Barrier(4, timeout=5)

    def together(body: dict) -> Reply:
        barrier.wait()
        return echo(body)

    with serving(together) as stub:
        assert len(asked(stub, tmp_path / "records", count=8, concurrency=4)) == 8


def test_an_engine_that_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    with serving(echo) as stub:
        pass
    with (
        opened(tmp_path / "records", CONDITIONS) as records,
        pytest.raises(SixfoldError, match="it crashed; see its log"),
    ):
        gather(
            Endpoint(stub.url, "stub"),
            questions(1),
            SAMPLING,
            records,
            1,
            Patience(),
            unseen,
            "x",
            lambda: "it crashed",
        )


def test_a_line_that_a_kill_cut_off_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "records"
    with serving(echo) as stub:
        asked(stub, path, count=3, concurrency=1)
        whole = path.read_bytes()
        path.write_bytes(whole[:-10])
        asked(stub, path, count=3)
        assert len(stub.requests) == 4
    kept = [{k: v for k, v in line.items() if k != "seconds"} for line in lines(path)]
    assert kept == [{k: v for k, v in json.loads(x).items() if k != "seconds"} for x in whole.splitlines()]


def test_an_answer_is_recorded_once(tmp_path: Path) -> None:
    answer = Answer("T/0", 0, "half of a character: \ud800", "", "stop")
    with opened(tmp_path / "records", CONDITIONS) as records:
        records.add(answer)
        records.add(answer)
    with opened(tmp_path / "records", CONDITIONS) as records:
        assert records.answers == {("T/0", 0): answer}
    assert len(lines(tmp_path / "records")) == 2


def test_two_runs_do_not_write_to_one_file(tmp_path: Path) -> None:
    with opened(tmp_path / "records", CONDITIONS), pytest.raises(SixfoldError, match="another run writes to"):
        _open(tmp_path / "records")


def _open(path: Path) -> Records:
    with opened(path, CONDITIONS) as records:
        return records


def test_records_of_other_conditions_or_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "records"
    with opened(path, {"task": "another"}):
        pass
    with pytest.raises(SixfoldError, match="was not written under these conditions"):
        _open(path)
    path.unlink()
    with opened(path, CONDITIONS) as records:
        records.add(Answer("T/0", 0, "x", "", "stop"))
    path.write_text(path.read_text().replace('"task_id"', '"task"') + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(SixfoldError, match=r"line 2 of .* is no answer; remove that line: its problem alone"):
        _open(path)


def test_a_model_is_named_where_there_is_one(tmp_path: Path) -> None:
    with serving(echo) as stub:
        assert first_model(Endpoint(stub.url, "")) == "stub"
        assert httpx.get(f"{stub.url}/models").status_code == 200
