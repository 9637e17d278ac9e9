"""speed.json: how fast an artifact answered, and in how much memory; what differs from run to run.

schema        1
artifact      name and content, as in evaluation.json
engine        name and build. command: as typed beside the artifact, null of an endpoint
machine       cpu, cores, memory (bytes) and gpus of the machine that ran it; null of an endpoint
concurrency   requests at a time
answers, seconds, tries   sums over them; seconds: from each request to its answer. cost: as stated or by price, null
              where unknown
tokens        sums of prompt and completion
generation    tokens a second: of one request as the engine measures it (llama.cpp), else of completion tokens by
              seconds, prompts included (measured_by says which). prompt: null where the engine does not say
peak_memory   bytes of the engine's process at its peak, files mapped into memory included; null where not known
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.client.asking import Answer
from evaluation.provider import Provider
from evaluation.scoring import tokens
from evaluation.subject import Subject

SCHEMA = 1
ENGINE, REQUEST = "the engine", "requests from their start to their end"


def speed(
    subject: Subject, provider: Provider, answers: Sequence[Answer], peak: int | None, price: tuple[float, float] | None
) -> dict[str, Any]:
    """price: of a million tokens of prompts, and of completions."""
    timed = [a.timings for a in answers if {"prompt_ms", "prompt_n", "predicted_ms", "predicted_n"} <= a.timings.keys()]
    counted = tokens(answers)
    seconds = sum(answer.seconds for answer in answers)
    if timed and len(timed) == len(answers):
        prompt, generation = _rate(timed, "prompt"), _rate(timed, "predicted")
    else:
        prompt, generation = None, _per_second(counted["completion"], seconds)
    here = provider.engine is not None
    return {
        "schema": SCHEMA,
        "artifact": {"name": subject.name, "content": subject.content},
        "engine": {"name": provider.name, "build": provider.build},
        "command": provider.engine.shown if provider.engine is not None else None,
        "machine": machine() if here else None,
        "concurrency": provider.concurrency,
        "answers": len(answers),
        "seconds": round(seconds, 1),
        "tries": sum(answer.tries for answer in answers),
        "cost": _cost(answers, counted, price),
        "tokens": counted,
        "prompt": prompt,
        "generation": generation,
        "measured_by": ENGINE if timed and len(timed) == len(answers) else REQUEST,
        "peak_memory": peak,
    }


def machine() -> dict[str, Any]:
    return {"cpu": _cpu(), "cores": os.cpu_count(), "memory": _memory(), "gpus": _gpus()}


def _rate(timed: Sequence[Any], what: str) -> float | None:
    """Without what came of a cache, which takes no time."""
    return _per_second(sum(t[f"{what}_n"] for t in timed), sum(t[f"{what}_ms"] for t in timed) / 1000)


def _per_second(count: float | None, seconds: float) -> float | None:
    return round(count / seconds, 2) if count and seconds > 0 else None


def _cost(answers: Sequence[Answer], counted: dict[str, int | None], price: tuple[float, float] | None) -> float | None:
    stated = [answer.cost for answer in answers]
    if None not in stated and stated:
        return round(sum(cost for cost in stated if cost is not None), 6)
    prompt, completion = counted["prompt"], counted["completion"]
    if price is None or prompt is None or completion is None:
        return None
    return round((prompt * price[0] + completion * price[1]) / 1e6, 6)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _gpus() -> list[str]:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
